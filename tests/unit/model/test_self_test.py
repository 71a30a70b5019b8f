"""The self-test that runs before packing: it passes what isolates, and catches a leak in each kind of layer."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    LlamaConfig,
)

from model.hybrid import load_model
from model.layers import attention, conv, isolation, kernels, mixer, scan
from model.layers.isolation import IsolationError, check_isolation
from pretrain.compress.config import PruneConfig
from rl.distill.config import OnPolicyDistillConfig
from tests.unit.model.packed_hybrids import (
    awake,
    tiny_config,
)


def test_self_test_passes_and_leaves_the_model_alone() -> None:
    model = awake(load_model(tiny_config(), seed=0)).train()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    llama = load_model(config)
    state = torch.random.get_rng_state()
    check_isolation(model, "fp32")
    check_isolation(llama, "fp32")
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("layer", ["conv", "scan", "attention"])
def test_self_test_catches_each_leak(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the documents away from one kind of layer at a time."""
    model = awake(load_model(tiny_config(), seed=0))
    if layer == "conv":
        monkeypatch.setattr(
            mixer, "causal_conv_silu", lambda x, w, b, layout: conv.causal_conv_silu(x, w, b)
        )
    elif layer == "scan":
        monkeypatch.setattr(
            mixer,
            "chunk_scan",
            lambda *args, layout: scan.chunk_scan(*args),
        )
    else:
        whole_row = attention.by_documents

        def leak(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            layout: object,
            dropout: float,
            scaling: float | None,
        ) -> torch.Tensor:
            rows = torch.zeros(query.shape[0], query.shape[2], dtype=torch.int32)
            return whole_row(query, key, value, attention.DocumentLayout(rows), dropout, scaling)

        monkeypatch.setattr(attention, "by_documents", leak)
    with pytest.raises(IsolationError):
        check_isolation(model, "fp32")


def test_self_test_is_of_the_path_that_the_precision_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that leaks in half precision alone, as a card's own would: fp32 weights under autocast."""
    model = awake(load_model(tiny_config(), seed=0))

    def leak(q: Any, k: Any, v: Any, ends: Any, *rest: Any, **options: Any) -> torch.Tensor:
        asked.append(q.dtype)
        one = (t[None].transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1)

    asked: list[torch.dtype] = []
    serves = lambda query, key, dropout: query.dtype == torch.bfloat16  # noqa: E731
    monkeypatch.setattr(kernels, "varlen_attention_serves", serves)
    monkeypatch.setattr(kernels, "varlen_attn", leak)
    check_isolation(model, "fp32")
    assert asked == []
    with pytest.raises(IsolationError):
        check_isolation(model, "bf16")
    assert set(asked) == {torch.bfloat16}
    monkeypatch.undo()
    check_isolation(model, "bf16")


def test_every_stage_proves_isolation_in_its_own_precision() -> None:
    """Those that have none compute in fp32."""
    root = Path(__file__).parents[3]
    told = {}
    for folder in ("model", "pretrain", "rl", "sft", "evals", "reward"):
        for path in (root / folder).rglob("*.py"):
            if calls := re.findall(r"check_isolation\(([^():]+)\)", path.read_text()):
                told[str(path.relative_to(root))] = {call.split(", ")[1] for call in calls}
    assert told.pop("rl/distill/stage.py") == told.pop("pretrain/compress/stage.py") == {'"fp32"'}
    for config in (OnPolicyDistillConfig, PruneConfig):
        assert "precision" not in config.model_fields
    by_fp8 = ("sft/stage.py", "pretrain/stage.py", "pretrain/compress/distill.py")
    assert [told.pop(name) for name in by_fp8] == [{"config.computed"}] * 3
    assert len(told) == 4 and all(said == {"config.precision"} for said in told.values())


def test_self_test_is_quick() -> None:
    """A bound on its work, not on its time: forward passes over one row of 72 tokens."""
    model, calls = awake(load_model(tiny_config(), seed=0)), []
    model.register_forward_hook(lambda *_: calls.append(1))
    check_isolation(model, "fp32")
    assert sum(isolation._LENGTHS) == 72
    assert len(calls) == 1 + 3 * len(isolation._LENGTHS)


def test_self_test_catches_a_gradient_that_leaks_where_no_value_does() -> None:
    """A kernel may be right forward and wrong backward: here each token adds 0 of the one before it."""
    model = awake(load_model(tiny_config(), seed=0))

    def leak(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        before = args[0].roll(1, dims=1)
        return (args[0] + (before - before.detach()), *args[1:])

    model.base_model.layers[0].register_forward_pre_hook(leak)
    with pytest.raises(IsolationError, match="gradient of document"):
        check_isolation(model, "fp32")
