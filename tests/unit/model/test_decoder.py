"""Shapes of Transformers against transformers' own models: parameters exactly, kept activations closely."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model import cost
from model.decoder import FAMILIES, DecoderShape, configuration, described
from model.hybrid import build_config, load_model
from model.lora import target_modules
from model.presets import shape
from model.sizes import kv_cache_bytes, parameters
from tests.unit.model.test_cost import _saved_bytes
from workbench.errors import UserError
from workbench.load import TrainingLoad

SIZES = {
    "num_hidden_layers": 6, "hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 500, "head_dim": 24, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def config(family: str, **changes: Any) -> Any:
    return AutoConfig.for_model(family, **(SIZES | changes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "tie_word_embeddings": True}])
def test_parameters_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    made = config(family, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    s = described(made.to_dict())
    assert parameters(s) == sum(p.numel() for p in model.parameters())
    assert sum(cost.parameters_by_kind(s)) == parameters(s)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_and_adapters_are_those_of_the_models_linear_layers(family: str) -> None:
    """[derived] rank x (in + out) of the linears that model.lora names; Phi-3 has four in a layer, others seven."""
    made = config(family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    linears: list[Any] = [model.get_submodule(name) for name in target_modules(model)]
    sizes = [x.in_features * x.out_features for x in linears]
    s = described(made.to_dict())
    assert cost.lora_parameters(s, 4) == sum(4 * (x.in_features + x.out_features) for x in linears)
    assert sum(layer.number for layer in cost.products(s)) == len(linears)
    assert sum(layer.parameters for layer in cost.products(s)) == sum(sizes)
    assert cost.largest_matrix(s) == max(sizes)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_layer_keeps_what_autograd_saves(family: str) -> None:
    made = config(family, hidden_size=128, head_dim=32, num_attention_heads=4)
    s = described(made.to_dict())
    assert isinstance(s, DecoderShape)
    measured = _saved_bytes(load_model(made, seed=0), 256) / 256
    load = TrainingLoad(tokens=256, row_tokens=256)
    planned = cost.training_memory(s, load).activations / 256
    assert planned == pytest.approx(measured, rel=0.06)


def test_windowed_layers_keep_their_window() -> None:
    """Mistral: six layers of 2 x 2 heads x 24 values x 2 bytes; Gemma 2 has every second one windowed."""
    assert (
        kv_cache_bytes(described(config("mistral", sliding_window=10).to_dict()), 100)
        == 6 * 192 * 10
    )
    assert (
        kv_cache_bytes(described(config("gemma2", sliding_window=10).to_dict()), 100)
        == 3 * 192 * 110
    )
    assert kv_cache_bytes(described(config("llama").to_dict()), 100) == 6 * 192 * 100


def test_what_is_not_known_is_not_guessed() -> None:
    with pytest.raises(
        UserError, match="'qwen3_next' costs is not known, and not guessed; known: nemo"
    ):
        described({"model_type": "qwen3_next"})
    with pytest.raises(
        UserError, match="gives no number for intermediate_size, num_attention_heads"
    ):
        described(
            {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 9}
        )
    with pytest.raises(
        UserError, match="'no such folder' is not a folder with a config.json, and no"
    ):
        configuration("no such folder")


def test_a_hybrid_with_experts_is_read_from_its_configuration() -> None:
    given = shape("nano3-30b-a3b")
    config = build_config(given).to_dict()
    found = described(config)
    assert parameters(found) == parameters(given) == 31_577_937_344
    with pytest.raises(UserError, match="moe_latent_size"):
        described(config | {"moe_latent_size": 1024})


def test_layers_are_known_by_their_older_names_too() -> None:
    """transformers reads both; a plan reads the file itself."""
    made = build_config("miniature").to_dict()
    older = {"linear_attention": "mamba", "full_attention": "attention"}
    words = [older.get(word, word) for word in made["layers_block_type"]]
    assert "mamba" in words and "attention" in words
    assert described(made | {"layers_block_type": words}) == described(made)
    with pytest.raises(
        UserError, match="'gru' at layer 1; allowed: linear_attention, mlp, .*mamba"
    ):
        described(made | {"layers_block_type": ["mamba", "gru"]})
