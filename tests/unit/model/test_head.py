"""What a model does to its logits is in every loss that multiplies by the output layer's matrix itself."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from model.head import linear_head, must_be_linear
from model.held_out import next_token_sums
from model.hybrid import load_model
from model.loss import IGNORED
from model.packed import Rows, token_loss_sum
from pretrain.compress.distill import Distillation
from workbench.errors import UserError

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "initializer_range": 0.5,
}  # fmt: skip
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_expand": 2,
    "mamba_chunk_size": 16,
}  # fmt: skip
# Family -> what it changes, and the factor that is found; None: no product.
FAMILIES: dict[str, tuple[dict[str, Any], float | None]] = {
    "llama": ({}, 1.0),
    "granite": ({"logits_scaling": 6.0}, 1 / 6),
    "granitemoehybrid": (
        {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 40, "num_local_experts": 0,
         "logits_scaling": 8.0} | MAMBA, 1 / 8,
    ),
    "falcon_h1": ({"mamba_d_ssm": 64, "lm_head_multiplier": 0.1} | MAMBA, 0.1),
    "cohere2": ({"logit_scale": 0.0625}, 0.0625),
    "gemma2": ({"final_logit_softcapping": 5.0}, None),
    "phi": ({}, None),
}  # fmt: skip


def made(family: str) -> Any:
    return load_model(AutoConfig.for_model(family, **(SMALL | FAMILIES[family][0])), seed=0)


def one_row() -> Rows:
    ids = torch.randint(3, 97, (1, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, 5:9] = IGNORED
    return Rows(ids, labels, torch.zeros_like(ids).int())


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_their_gradients_are_those_of_the_models_own_logits(family: str) -> None:
    model, rows = made(family), one_row()
    found = token_loss_sum(model, rows, "fp32")
    grads = torch.autograd.grad(found, list(model.parameters()), materialize_grads=True)
    logits = model(input_ids=rows.input_ids).logits
    expected = torch.nn.functional.cross_entropy(
        logits[0, :-1], rows.labels[0, 1:], ignore_index=IGNORED, reduction="sum"
    )
    wanted = torch.autograd.grad(expected, list(model.parameters()), materialize_grads=True)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for one, two in zip(grads, wanted, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max() + 1e-3))
    nats, _, tokens = next_token_sums(model, rows, "fp32")[0].tolist()
    assert (nats, tokens) == (pytest.approx(float(expected.detach()), rel=1e-5), 19)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_factor_is_looked_at(family: str) -> None:
    head, factor = linear_head(made(family)), FAMILIES[family][1]
    if factor is None:
        assert head is None
    else:
        assert head is not None and head.scale == pytest.approx(factor)


def test_a_look_leaves_the_model_as_it_was() -> None:
    model = made("granite").train()
    state = torch.random.get_rng_state()
    linear_head(model)
    assert model.training and torch.equal(state, torch.random.get_rng_state())
    assert not model.base_model._forward_hooks


def test_what_needs_a_product_says_so() -> None:
    with pytest.raises(UserError, match="Gemma2ForCausalLM does more to its logits than multiply"):
        must_be_linear(made("gemma2"), what="distill")
    with pytest.raises(UserError, match="distill cannot take it"):
        Distillation(made("phi"))
