"""The words of the mismatch gate: kinds of layers that differ, by how much, and the others."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import EngineConfig
from engine.protocol import Request, Sampling
from engine.trace import Recorder
from engine.vllm_engine import VllmEngine
from rl import diagnosis
from rl.diagnosis import LayerError, diagnose, explain

FINE = [
    LayerError("embedding", None, 0.0, 0.0),
    LayerError("Mamba-2", 0, 2e-7, 3e-7),
    LayerError("attention", 1, 1e-7, 1e-7),
    LayerError("Mamba-2", 2, 2e-7, 4e-7),
    LayerError("head", None, 2e-6, 1e-6),
]


def test_the_kinds_that_differ_are_named_with_their_layers() -> None:
    errors = [*FINE]
    errors[1] = errors[1]._replace(reply=0.31)
    errors[3] = errors[3]._replace(prompt=0.002, reply=0.25)
    assert explain(errors, "float32") == (
        "layers that differ: Mamba-2 (layer 0, 2) by 0.002 on prompts, 0.31 in decoding. "
        "The others agree: embedding 0, attention 1e-07, head 2e-06"
    )
    errors[4] = errors[4]._replace(prompt=float("nan"))
    assert "; head by nan nats on prompts, 1e-06 nats in decoding" in explain(errors, "float32")


def test_rounding_is_not_a_difference() -> None:
    assert explain(FINE, "float32").startswith("fed the same inputs at temperature 1, every layer")
    half = [e._replace(prompt=0.02, reply=0.05) for e in FINE]
    assert explain(half, "bfloat16").startswith("fed the same inputs")
    assert explain(half, "float32").startswith("layers that differ: embedding by 0.02")


def test_a_head_with_large_logits_may_differ_by_as_many_steps_as_a_probe() -> None:
    """[derived] bf16: 16 steps of a 256th of a logit of 32 are 2 nats; of one of 4 the least limit counts, 0.3."""
    for largest, gap, wrong in ((32.0, 1.9, False), (32.0, 2.1, True), (4.0, 0.4, True)):
        errors = [*FINE[:4], LayerError("head", None, gap, 0.1, largest)]
        assert explain(errors, "bfloat16").startswith("layers that differ: head") is wrong
    assert "head by 1.9 nats" in explain([LayerError("head", None, 1.9, 0.1, 32.0)], "float32")


def test_the_largest_logit_of_several_traces_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[Any] = [
        [LayerError("head", None, 0.1, 0.1, 32.0)],
        [LayerError("head", None, 1.9, 0.1, 31.0)],
    ]
    monkeypatch.setattr(diagnosis, "compare", lambda model, trace: trace)
    assert diagnose(nn.Identity(), traces, "bfloat16").startswith("fed the same inputs")


def test_twice_the_tolerance_is_a_difference() -> None:
    errors = [*FINE]
    errors[1] = errors[1]._replace(reply=2e-3)
    assert explain(errors, "float32").startswith("layers that differ: Mamba-2 (layer 0) by")


@pytest.mark.parametrize("bad", [0.4, math.nan])
@pytest.mark.parametrize("place", [0, 1])
def test_of_several_traces_the_worst_counts(
    monkeypatch: pytest.MonkeyPatch, bad: float, place: int
) -> None:
    traces: list[Any] = [[*FINE], [*FINE]]
    traces[place][2] = traces[place][2]._replace(prompt=bad)
    monkeypatch.setattr(diagnosis, "compare", lambda model, trace: trace)
    told = diagnose(nn.Identity(), traces, "float32")
    assert told.startswith(f"layers that differ: attention (layer 1) by {bad:.2g} on prompts")


class Stack(nn.Module):
    """Two layers as vLLM has them: (positions, stream, what is still to be added) -> the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([Doubling(), Doubling()])


class Doubling(nn.Module):
    def forward(self, positions: Any, hidden: torch.Tensor, rest: Any) -> Any:
        return hidden, hidden if rest is None else hidden + rest


def test_a_recorder_that_saw_nothing_says_so() -> None:
    """As of layers that are compiled, or replayed from a CUDA graph: their hooks are not called."""
    model = Stack()
    with Recorder(model) as seen:
        hidden, rest = torch.ones(3, 4), None
        for layer in model.model.layers:
            hidden, rest = layer(None, hidden, rest)
    assert seen.streams(3)[:, 0, 0].tolist() == [1, 2, 3]
    with Recorder(model) as blind:
        pass
    with pytest.raises(RuntimeError, match=r"the engine ran \[0\] tokens for a trace of 3"):
        blind.streams(3)


@pytest.mark.parametrize(("eager", "shards"), [(False, 1), (True, 2)])
def test_an_engine_of_graphs_or_shards_keeps_no_trace_and_its_user_is_told_how(
    eager: bool, shards: int
) -> None:
    made: Any = VllmEngine.__new__(VllmEngine)
    made.config = EngineConfig(tensor_parallel_size=shards)
    made._engine = SimpleNamespace(model_config=SimpleNamespace(enforce_eager=eager))
    assert made.trace(Request([1, 2], Sampling(4), seed=0)) == []
    told = diagnose(nn.Identity(), [], "bfloat16")
    assert told.startswith("which layers differ is not known") and "enforce_eager: true" in told
