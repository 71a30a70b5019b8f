"""Other families through packed rows: what cannot isolate takes its documents one by one, and is proved too."""

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.hybrid import load_model
from model.layers.isolation import check_isolation
from model.layers.mixer import DocumentMamba2
from model.lora import adapter_parameters, add_adapters, merge_adapters
from model.lora_config import LoraConfig

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 8}
# Family -> what its configuration needs, and a word of the reason; none where rows are packed.
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({}, ""),
    "qwen2": ({}, ""),
    "qwen3": ({}, ""),
    "phi3": ({}, ""),
    "mistral": (WINDOW, "windows"),
    "gemma2": (WINDOW, "windows"),
    "gemma3_text": (WINDOW, "windows"),
    "cohere2": (WINDOW, "windows"),
    # Images beside text: what is asked of its configuration is its language model's.
    "gemma3": (
        {
            "text_config": {**SIZES, **WINDOW},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        "windows",
    ),
    "phimoe": ({"num_local_experts": 4, "num_experts_per_tok": 2}, "experts"),
    "gpt_oss": ({**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}, "windows"),
}


def model_of(family: str) -> Any:
    changes, _ = FAMILIES[family]
    return load_model(AutoConfig.for_model(family, **(SIZES | changes)), seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_packed_or_takes_its_documents_one_by_one(family: str) -> None:
    model = model_of(family)
    check_isolation(model, "fp32")
    reason = getattr(model.base_model.forward, "reason", "")
    assert FAMILIES[family][1] in reason and bool(FAMILIES[family][1]) == bool(reason)


def test_documents_one_by_one_are_those_alone_and_the_reason_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To the bit, with padding in the row, by ids and in a copy of the model, and 8 tokens on: the window."""
    model = model_of("mistral").eval()
    ids = torch.randint(3, 97, (2, 30), generator=torch.Generator().manual_seed(1))
    numbers = torch.tensor([[0] * 12 + [1] * 18, [0] * 29 + [1]]).int()
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        packed = model(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        again = copy.deepcopy(model)(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        alone = [model(input_ids=ids[:1, :12]).logits, model(input_ids=ids[:1, 12:]).logits]
    assert torch.equal(packed[:1], torch.cat(alone, dim=1))
    assert torch.equal(packed, again)
    said = [r for r in caplog.records if "takes one document at a time" in r.getMessage()]
    assert len(said) == 1


MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_expand": 2,
    "mamba_chunk_size": 16,
}  # fmt: skip
GRANITE = MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 40}
FALCON = MAMBA | {"mamba_d_ssm": 64, "ssm_multipliers": [0.5, 0.7, 0.9, 1.1, 1.3]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
NEMOTRON = {
    "hybrid_override_pattern": "ME*E", "num_hidden_layers": 4, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "ssm_state_size": 8, "n_groups": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24,
}  # fmt: skip
ZAMBA = {
    "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_d_state": 8, "mamba_ngroups": 2, "mamba_expand": 2,
    "layers_block_type": ["mamba", "hybrid"], "use_mem_rope": True, "num_mem_blocks": 1, "chunk_size": 16,
    "use_shared_attention_adapter": True, "adapter_rank": 4, "head_dim": None, "num_key_value_heads": 4,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1, "head_dim": None, "num_key_value_heads": 4,
}  # fmt: skip
# Name -> family and sizes of models with Mamba-2 layers or with experts: all of them pack.
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("bamba", MAMBA | {"attn_layer_indices": [1]}),
    "granite, experts": ("granitemoehybrid", GRANITE | EXPERTS),
    "granite, dense": ("granitemoehybrid", GRANITE | {"num_local_experts": 0}),
    "falcon": ("falcon_h1", FALCON | {"mamba_rms_norm": False}),
    "falcon, norm": ("falcon_h1", FALCON | {"mamba_rms_norm": True, "mamba_norm_before_gate": False}),
    "falcon, norm first": ("falcon_h1", FALCON | {"mamba_rms_norm": True}),
    "zamba2": ("zamba2", ZAMBA),
    "nemotron, experts": ("nemotron_h", NEMOTRON),
    "mixtral": ("mixtral", EXPERTS),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2 experts": ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                                    "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1}),
    "granite 3 experts": ("granitemoe", EXPERTS),
    "glm": ("glm4_moe", {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                         "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "deepseek": ("deepseek_v3", LATENT),
    "deepseek 2": ("deepseek_v2", LATENT),
    "qwen3 experts": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
}  # fmt: skip
LENGTHS = (23, 1, 9)


def config_of(name: str) -> Any:
    family, changes = PACKED[name]
    sizes = {key: value for key, value in (SIZES | changes).items() if value is not None}
    return AutoConfig.for_model(family, **sizes)


def numbers_of(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).int()[None]


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_row_is_transformers_own_model_on_each_document(name: str) -> None:
    """Logits and every gradient of a row of three documents, against the family's own layers one document at a
    time [derived], in fp64 where experts allow it (torch's grouped products do not); isolation is proved to the bit, and nothing is taken one by one as a whole."""
    model = load_model(config_of(name), seed=0)
    check_isolation(model, "fp32")
    assert not hasattr(model.base_model.forward, "reason")
    dtype = (
        "float32" if any("expert" in module for module, _ in model.named_modules()) else "float64"
    )
    model = load_model(config_of(name), seed=0, dtype=dtype).train()
    own = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), attn_implementation="sdpa")
    own = own.to(model.dtype).train()
    own.load_state_dict(model.state_dict())
    ids = torch.randint(3, 97, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))
    packed = model(input_ids=ids, seq_idx=numbers_of(LENGTHS), use_cache=False).logits
    alone = torch.cat(
        [own(input_ids=part, use_cache=False).logits for part in ids.split(LENGTHS, 1)], 1
    )
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-5)
    ours, theirs = gradients(model, packed.square().mean()), gradients(own, alone.square().mean())
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for parameter, expected in theirs.items():
        torch.testing.assert_close(ours[parameter], expected, atol=1e-6, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["granite, experts", "nemotron, experts", "zamba2"])
def test_recomputed_layers_have_the_documents_of_their_own_row(name: str) -> None:
    """Two rows are sent through before either goes back, as pairs of replies are."""
    model = load_model(config_of(name), seed=0).train()
    ids = torch.randint(3, 97, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(4))

    def both() -> dict[str, torch.Tensor]:
        rows = [(ids, numbers_of(LENGTHS)), (ids[:, :20], numbers_of((4, 16)))]
        out = [
            model(input_ids=i, seq_idx=s, use_cache=False).logits.square().mean() for i, s in rows
        ]
        return gradients(model, out[0] + out[1])

    kept = both()
    model.gradient_checkpointing_enable()
    again = both()
    assert all(torch.equal(kept[parameter], again[parameter]) for parameter in kept)


@pytest.mark.parametrize("name", [n for n in PACKED if "norm" not in n])
def test_adapters_reach_every_layer_and_merge(name: str) -> None:
    model = add_adapters(load_model(config_of(name), seed=0), LoraConfig(rank=2)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    ids = torch.randint(3, 97, (1, sum(LENGTHS)), generator=generator)
    call = {"input_ids": ids, "seq_idx": numbers_of(LENGTHS), "use_cache": False}
    logits = model(**call).logits
    logits.square().mean().backward()
    assert [n for n, p in model.named_parameters() if ".lora_" in n and not p.grad.any()] == []
    merged = merge_adapters(model)
    torch.testing.assert_close(merged(**call).logits, logits, atol=2e-6, rtol=1e-4)


def test_what_else_a_row_holds_does_not_reach_the_rounding_of_experts() -> None:
    """At a width where it does when an expert takes the tokens of all documents together: the logits of 1 of 173
    tokens moved on the CPU where this was written."""
    config = config_of("qwen3 experts")
    config.hidden_size, config.moe_intermediate_size, config.num_experts = 512, 384, 8
    model = load_model(config, seed=0).eval()
    numbers = numbers_of((70, 1, 2, 60, 40))
    ids = torch.randint(3, 97, numbers.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        for document in range(5):
            mine = numbers[0] == document
            changed = torch.where(mine, (ids + 1) % 97, ids)
            after = model(input_ids=changed, seq_idx=numbers, use_cache=False).logits
            assert torch.equal(after[:, ~mine], before[:, ~mine])


@pytest.mark.parametrize("name", ["nemotron, experts", "bamba", "granite, dense", "falcon"])
def test_time_steps_go_down_to_0_as_in_training_codes_and_engines(name: str) -> None:
    """[derived] softplus(-9) is 1.2e-4: clamped at 0.001, bias and projection would get no gradient."""
    model = load_model(config_of(name), seed=0)
    layers = [m for m in model.modules() if isinstance(m, DocumentMamba2)]
    with torch.no_grad():
        for layer in layers:
            layer.dt_bias.fill_(-9.0)
    ids = torch.randint(3, 97, (1, 33), generator=torch.Generator().manual_seed(5))
    model(
        input_ids=ids, seq_idx=numbers_of(LENGTHS), use_cache=False
    ).logits.square().mean().backward()
    assert layers and all(bool(layer.dt_bias.grad.all()) for layer in layers)
