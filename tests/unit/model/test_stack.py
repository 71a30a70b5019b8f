"""Models whose layers are of several parts, against transformers' own: parameters and adapters exactly, kept
activations closely."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model import cost
from model.decoder import described
from model.families import STACKED
from model.hybrid import load_model
from model.lora import target_modules
from model.sizes import active_parameters, kv_cache_bytes, parameters, state_bytes
from tests.unit.model.test_cost import _saved_bytes
from tests.unit.model.test_decoder import SIZES
from workbench.errors import UserError
from workbench.load import TrainingLoad

MAMBA: dict[str, Any] = {
    "head_dim": 16, "mamba_n_heads": 6, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 2,
    "mamba_expand": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN3 = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GRANITE = MAMBA | {"layer_types": ["mamba", "attention"] * 3, "shared_intermediate_size": 40}
ZAMBA: dict[str, Any] = {
    "n_mamba_heads": 6, "mamba_d_state": 16, "mamba_ngroups": 2, "mamba_expand": 2, "head_dim": None,
    "layers_block_type": ["mamba", "hybrid"] * 3, "use_mem_rope": True, "num_mem_blocks": 2,
    "use_shared_attention_adapter": True, "adapter_rank": 4, "num_key_value_heads": 6,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", EXPERTS),
    "olmoe": ("olmoe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen3": ("qwen3_moe", QWEN3),
    "qwen3, some dense": ("qwen3_moe", QWEN3 | {"decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    "gpt-oss": ("gpt_oss", EXPERTS | {"sliding_window": 8}),
    "bamba": ("bamba", MAMBA | {"attn_layer_indices": [1, 4]}),
    "bamba, biases": ("bamba", MAMBA | {"attn_layer_indices": [1], "mamba_proj_bias": True, "mlp_bias": True, "mamba_conv_bias": False}),
    "granite": ("granitemoehybrid", GRANITE | EXPERTS),
    "granite, dense": ("granitemoehybrid", GRANITE | {"num_local_experts": 0, "mamba_proj_bias": True}),
    "falcon": ("falcon_h1", MAMBA | {"mamba_d_ssm": 192, "mamba_rms_norm": False}),
    "falcon, norm": ("falcon_h1", MAMBA | {"mamba_d_ssm": 96, "mamba_d_head": 16, "mamba_rms_norm": True, "projectors_bias": True, "mlp_bias": True}),
    "zamba2": ("zamba2", ZAMBA),
    "zamba2, one block": ("zamba2", ZAMBA | {"num_mem_blocks": 1, "use_shared_attention_adapter": False, "add_bias_linear": True}),
}  # fmt: skip


def config(name: str, **changes: Any) -> Any:
    family, own = CASES[name]
    sizes = {key: value for key, value in (SIZES | own | changes).items() if value is not None}
    return AutoConfig.for_model(family, **sizes)


def test_every_family_has_a_case() -> None:
    assert {family for family, _ in CASES.values()} == set(STACKED)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "tie_word_embeddings": True}])
def test_parameters_and_adapters_are_those_of_transformers(
    name: str, changes: dict[str, Any]
) -> None:
    made = config(name, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    s = described(made.to_dict())
    assert parameters(s) == sum(p.numel() for p in model.parameters())
    assert sum(cost.parameters_by_kind(s)) == parameters(s)
    names = set(target_modules(model))
    adapted = [m for n, m in model.named_modules() if n in names]
    expected = sum(4 * (m.in_features + m.out_features) for m in adapted)  # type: ignore[operator]
    assert cost.lora_parameters(s, 4) == expected
    few = sum(layer.parameters for layer in cost.products(s))
    assert cost.base_bytes(s, "nf4") == round(cost.NF4_BYTES * few) + 2 * (parameters(s) - few)


# Every layer of one kind, or of one mix.
ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "experts": ("mixtral", {}),
    "experts, norms of q and k": ("olmoe", {"num_key_value_heads": 4}),
    "experts, norms of heads": ("qwen3", {"moe_intermediate_size": 96}),
    "sinks": ("gpt-oss", {}),
    "attention": ("bamba", {"attn_layer_indices": [0, 1, 2, 3]}),
    "attention, shared and experts": ("granite", {"layer_types": ["attention"] * 4}),
    "mamba": ("bamba", {"attn_layer_indices": []}),
    "mamba, fused gate": ("granite, dense", {"layer_types": ["mamba"] * 4, "mamba_proj_bias": False}),
    "side by side": ("falcon", {"mamba_d_ssm": 256}),
    "shared block": ("zamba2", {"layers_block_type": ["hybrid"] * 4, "num_key_value_heads": 4}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_a_layer_keeps_what_autograd_saves(kind: str) -> None:
    """A tenth; a third where there is Mamba, whose torch scan keeps decays that kernels compute again."""
    name, changes = ALIKE[kind]
    heads = {"mamba_n_heads": 8, "n_mamba_heads": 8, "mamba_d_state": 32}
    wide = {"num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4}
    own = {key: value for key, value in heads.items() if key in CASES[name][1]}
    head_dim = None if CASES[name][0] == "zamba2" else 32
    made = config(name, **wide | own | {"head_dim": head_dim} | changes)
    measured = _saved_bytes(load_model(made, seed=0), 256) / 256
    load = TrainingLoad(tokens=256, row_tokens=256)
    planned = cost.training_memory(described(made.to_dict()), load).activations / 256
    recurrent = state_bytes(described(made.to_dict())) > 0
    assert planned == pytest.approx(measured, rel=0.33 if recurrent else 0.1)


@pytest.mark.parametrize(
    ("written", "whole", "active"),
    [
        # [model card] gpt-oss-20b and gpt-oss-120b, their table of parameters.
        ({"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32}, 20.91, 3.61),
        ({"model_type": "gpt_oss", "num_hidden_layers": 36, "num_local_experts": 128}, 116.83, 5.13),
        # [paper] Mixtral of Experts: 47B and 13B.
        ({"model_type": "mixtral"}, 46.70, 12.75),
    ],
)  # fmt: skip
def test_released_models_have_the_sizes_of_their_cards(
    written: dict[str, Any], whole: float, active: float
) -> None:
    made = AutoConfig.for_model(**written).to_dict()
    s = described(made)
    assert round(parameters(s) / 1e9, 2) == whole
    assert round(active_parameters(s) / 1e9, 2) == active


def test_caches_and_states_by_hand() -> None:
    """[derived] Two attention layers of 2 key-value heads of 16 values, keys and values, in bf16; four of Mamba with
    192 x 16 states in fp32 and 3 taps of 192 + 2 x 2 x 16 channels. gpt-oss keeps 8 tokens in every second layer."""
    bamba = described(config("bamba").to_dict())
    assert kv_cache_bytes(bamba, 100) == 2 * 2 * 2 * 16 * 100 * 2
    assert state_bytes(bamba) == 4 * (192 * 16 * 4 + 3 * 256 * 2)
    oss = described(config("gpt-oss").to_dict())
    assert kv_cache_bytes(oss, 100) == 2 * 2 * 24 * 2 * (3 * 100 + 3 * 8)
    # Zamba2: three hybrid layers of 6 heads of 2 x 96 / 6.
    assert kv_cache_bytes(described(config("zamba2").to_dict()), 100) == 3 * 2 * 6 * 32 * 100 * 2


def test_flops_by_hand() -> None:
    """[derived] Mixtral: q and o 96 x 144, k and v 96 x 48; two experts of three 96 x 160, the router 96 x 4;
    scores over 50 of 100 tokens; the head 96 x 500."""
    s = described(config("mixtral").to_dict())
    layer = 2 * (2 * 96 * 144 + 2 * 96 * 48 + 2 * 3 * 96 * 160 + 96 * 4) + 4 * 50 * 144
    assert cost.forward_flops(s, 100) == 6 * layer + 2 * 96 * 500


def test_what_is_missing_is_named_and_not_guessed() -> None:
    written = config("bamba").to_dict()
    del written["mamba_d_state"]
    with pytest.raises(UserError, match="no number for mamba_d_state: nothing can be planned"):
        described(written)
    untied = config("zamba2", tie_word_embeddings=False).to_dict()
    with pytest.raises(UserError, match="zamba2 with tie_word_embeddings: false"):
        described(untied)
