"""What a read-back may pass over: tensors of experts, and nothing else that vLLM has no module for."""

import pytest
import torch
from torch import nn

from engine.readback import Readback
from engine.sync_check import SyncError


def model() -> nn.Module:
    """A decoder layer with attention and, beside it, experts as vLLM holds them."""
    experts = nn.Module()
    experts.w13_weight = nn.Parameter(torch.ones(2, 4, 3))
    layer = nn.ModuleDict({"attn": nn.ModuleDict(), "moe": nn.ModuleDict({"experts": experts})})
    return nn.ModuleDict({"layers": nn.ModuleList([layer])})


def test_experts_are_named_as_unread() -> None:
    given = {
        "layers.0.moe.router.weight": torch.ones(2),
        "layers.0.moe.experts.0.up.weight": torch.ones(2),
    }
    assert Readback(model(), given).unread == list(given)


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.attn.k_proj.weight",
        "layers.0.norm.weight",
        "layers.1.moe.router.weight",
        "head.weight",
    ],
)
def test_what_vllm_does_not_have_elsewhere_is_an_error(name: str) -> None:
    with pytest.raises(SyncError, match=f"vLLM has no {name.removesuffix('.weight')}: "):
        Readback(model(), {name: torch.ones(2)})
