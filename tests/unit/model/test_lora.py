"""LoRA reaches every projection of a Llama model, and merging it is exact."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from model.hybrid import build_config, load_model
from model.lora import (
    Adapter,
    adapter_parameters,
    adapter_state,
    adapter_tensors,
    adapters_of,
    adapters_off,
    add_adapters,
    base_tensors,
    has_adapters,
    load_adapter_state,
    merge_adapters,
    merged_tensors,
    save_adapters,
    target_modules,
)
from model.lora_config import LoraConfig as OurConfig
from workbench.errors import UserError


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def test_every_linear_layer_but_the_head_is_adapted() -> None:
    model = llama()
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert set(target_modules(model)) == linear - {"lm_head"}
    assert len(linear) - 1 == 3 * 7  # q, k, v, o, gate, up, down


SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
SEES: dict[str, Any] = {
    "text_config": SMALL, "mm_tokens_per_image": 4,
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                      "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi", {}),
        ("starcoder2", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("qwen3_next", {**EXPERTS, "layer_types": ["linear_attention", "full_attention"]}),
        ("deepseek_v3", EXPERTS),
        ("gemma3", SEES),
    ],
)
def test_every_mixer_and_feed_forward_is_adapted_whole(
    family: str, changes: dict[str, Any]
) -> None:
    """Routers aside; of a model that sees images too, its language model."""
    model = load_model(AutoConfig.for_model(family, **(SMALL | changes)), seed=0)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    left = {n for n in linear - set(target_modules(model)) if "vision" not in n}
    routers = ("lm_head", "gate", "shared_expert_gate")
    assert {n for n in left if n.rsplit(".", 1)[-1] not in routers} == set()
    adapted = add_adapters(model, OurConfig(rank=2))
    found = {n for n, m in adapted.named_modules() if hasattr(m, "base_layer")}
    assert found == linear - left - {n for n in linear if "vision" in n} and len(found) > 5


def test_a_model_whose_projections_nobody_knows_is_refused() -> None:
    for family, says in (
        ("gpt2", "of GPT2LMHeadModel;"),
        ("gpt_neox", "named dense_4h_to_h, dense_h"),
    ):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL))
        with pytest.raises(UserError, match=f"LoRA knows no projection .*{says}.*train it whole"):
            target_modules(model)


def test_a_merged_model_says_what_the_adapted_one_says() -> None:
    model = llama()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=target_modules(model))
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 40, (2, 11))
    with torch.no_grad():
        before = adapted(ids).logits
        merged = adapted.merge_and_unload()
        assert (merged(ids).logits - before).abs().max() < 1e-6
    changed = {n for n, t in merged.state_dict().items() if not torch.equal(t, plain[n])}
    assert changed == {f"{name}.weight" for name in target_modules(merged)}


def hybrid() -> nn.Module:
    return load_model(
        build_config(
            pattern="M-*M-", hidden_size=24, intermediate_size=32, mamba_num_heads=4, mamba_head_dim=6,
            num_attention_heads=4, num_key_value_heads=2, head_dim=6, vocab_size=40, n_groups=2,
            ssm_state_size=8, dtype="float32",
        ),
        seed=0,
    )  # fmt: skip


def test_every_layer_of_a_hybrid_is_adapted_by_its_kind() -> None:
    """PEFT's own choice for this model reaches its one attention layer alone (design, section 5)."""
    model = hybrid()
    by_layer: dict[int, set[str]] = {}
    for name in target_modules(model):
        _, _, rest = name.partition("layers.")
        layer, _, tail = rest.partition(".")
        by_layer.setdefault(int(layer), set()).add(tail.rsplit(".", 1)[-1])
    mamba, mlp = {"in_proj"}, {"up_proj", "down_proj"}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert by_layer == {0: mamba, 1: mlp, 2: attention, 3: mamba, 4: mlp}


def test_a_hybrids_adapters_learn_and_merge_into_the_same_function() -> None:
    base = hybrid()
    names = target_modules(base)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # B starts at 0: an adapter that is left out would not be missed
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    ids = torch.randint(40, (2, 30), generator=generator)
    seq_idx = (torch.arange(30) // 11).expand(2, 30).int()
    logits = adapted(input_ids=ids, seq_idx=seq_idx, use_cache=False).logits
    logits.square().mean().backward()
    idle = [n for n, p in adapted.named_parameters() if "lora_" in n and not p.grad.any()]
    assert idle == []
    merged = adapted.merge_and_unload()
    with torch.no_grad():
        after = merged(input_ids=ids, seq_idx=seq_idx, use_cache=False).logits
    torch.testing.assert_close(after, logits.detach(), atol=1e-6, rtol=1e-5)


def adapted(base: str = "float32") -> tuple[Any, OurConfig]:
    """A hybrid whose adapters all say something: B starts at 0, where none would be missed."""
    how = OurConfig(rank=4, alpha=8, base=base)  # type: ignore[arg-type]
    model = load_model(hybrid().config, seed=0, dtype=base)
    torch.manual_seed(1)
    add_adapters(model, how)
    made = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=made) * 0.1)
    return model, how


def logits_of(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(30)[None] % 40
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("base", ["float32", "bfloat16"])
def test_adapters_on_their_base_are_the_adapted_function_under_the_plain_names(base: str) -> None:
    """What an engine makes of the tensors that it is sent and of the checkpoint that it holds."""
    model, _ = adapted(base)
    says, plain = logits_of(model), load_model(hybrid().config, seed=0)
    sent = dict(adapter_tensors(model))
    assert all(".lora_" in name and tensor.dtype != torch.bfloat16 for name, tensor in sent.items())
    adapters, state = adapters_of(sent), dict(base_tensors(model))
    assert state.keys() == plain.state_dict().keys() > adapters.keys()
    state |= {name: adapter.merged(state[name]) for name, adapter in adapters.items()}
    own = dict(merged_tensors(model))
    assert own.keys() == state.keys()
    assert all(torch.equal(own[n], t.to(own[n].dtype)) for n, t in state.items())
    plain.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    # bf16 activations have 8 bits; the merged weights themselves are exact.
    assert float((logits_of(plain) - says).abs().max()) < (1e-5 if base == "float32" else 0.05)
    assert float((logits_of(load_model(hybrid().config, seed=0)) - says).abs().max()) > 0.1
    assert {p.dtype for p in adapter_parameters(model)} == {torch.float32}
    with adapters_off(model):
        base_says = logits_of(model)
    assert torch.equal(base_says, logits_of(load_model(hybrid().config, seed=0, dtype=base)))
    assert torch.equal(logits_of(model), says)
    merge_adapters(model)
    assert not has_adapters(model) and model.state_dict().keys() == plain.state_dict().keys()
    assert float((logits_of(model) - says).abs().max()) < (1e-5 if base == "float32" else 0.05)


def test_an_adapter_is_scaled_and_added_by_hand() -> None:
    """[derived] 0.5 x [1, 2]^T [3, 4] = [[1.5, 2], [3, 4]], on ones in bf16, which the sum must not round."""
    adapter = Adapter(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0]]), 0.5)
    weight = torch.ones(2, 2, dtype=torch.bfloat16)
    assert torch.equal(adapter.merged(weight), torch.tensor([[2.5, 3.0], [4.0, 5.0]]))
    tiny = adapter._replace(scaling=2.0**-12)
    assert float(tiny.merged(weight)[0, 0]) == 1 + 3 * 2.0**-12 and bool((weight == 1).all())


def test_adapters_that_are_not_whole_are_named() -> None:
    model, _ = adapted()
    sent = dict(adapter_tensors(model))
    lost = next(name for name in sent if name.endswith("lora_B"))
    with pytest.raises(ValueError, match=f"not whole adapters: {re.escape(lost)}"):
        adapters_of({name: tensor for name, tensor in sent.items() if name != lost})
    with pytest.raises(ValueError, match=r"not whole adapters: model\.norm"):
        adapters_of({**sent, "model.norm": torch.ones(2)})


def test_saved_adapters_are_what_peft_reads(tmp_path: Path) -> None:
    model, how = adapted()
    save_adapters(model, how, tmp_path / "adapter", "base")
    read = PeftModel.from_pretrained(load_model(hybrid().config, seed=0), str(tmp_path / "adapter"))
    assert torch.equal(logits_of(read), logits_of(model))


def test_adapters_are_put_back_strictly() -> None:
    model, how = adapted()
    state = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    other = add_adapters(load_model(hybrid().config, seed=0), how)
    load_adapter_state(other, state)
    assert torch.equal(logits_of(other), logits_of(model))
    state.popitem()
    with pytest.raises(ValueError, match="are not those of this model"):
        load_adapter_state(other, state)
