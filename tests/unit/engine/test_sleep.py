"""An engine that sleeps between batches: the order of calls, and what wakes up changed is not sampled."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import OWN_OPTIONS, EngineConfig
from engine.protocol import Request, Sampling
from engine.sleep import Sleeper, fingerprints
from engine.sync_check import SyncError
from engine.vllm_engine import VllmEngine
from engine.vllm_settings import further_options, gpu_settings
from workbench.errors import UserError


class Sleepy:
    """Records what vLLM's LLMEngine is asked."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 2).to(torch.bfloat16)
        self.asked: list[str] = []

    def apply_model(self, function: Any) -> list[Any]:
        return [function(self.model)]

    def sleep(self, level: int) -> None:
        self.asked.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.asked.append("wake")


def engine(vllm: Sleepy, **settings: Any) -> Any:
    made: Any = VllmEngine.__new__(VllmEngine)
    made.config = EngineConfig(**settings)
    made._engine, made._sleeper = vllm, Sleeper(vllm, made.config)
    made._doubt, made._unproven, made._batch = None, False, 0
    made._backlog, made._requests, made._ended = deque(), {}, []
    return made


def test_an_engine_sleeps_when_nothing_is_left_and_wakes_for_the_next_batch() -> None:
    vllm = Sleepy()
    made = engine(vllm, sleep=True)
    made.poll(0)
    made.poll(0)
    assert vllm.asked == ["sleep 1"]
    made.submit([Request([1, 2], Sampling(4), seed=0)])
    assert vllm.asked == ["sleep 1", "wake"]
    awake = Sleepy()
    engine(awake).poll(0)
    assert awake.asked == []


def test_weights_that_changed_in_their_sleep_are_not_sampled_from() -> None:
    vllm = Sleepy()
    made = engine(vllm, sleep=True)
    made.poll(0)
    with torch.no_grad():  # one bit of one value
        vllm.model.weight.view(torch.int16)[1, 2] ^= 1
    with pytest.raises(SyncError, match="woke up with other weights .*: weight and 0 more"):
        made.submit([Request([1, 2], Sampling(4), seed=0)])
    with pytest.raises(SyncError, match="nothing is sampled until one succeeds"):
        made.poll(0)


def test_a_fingerprint_sees_bits_and_their_places() -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    before = fingerprints(model)
    assert fingerprints(model) == before
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 1.0, 3.0, 4.0]]))
    assert fingerprints(model)["weight"] != before["weight"]
    assert fingerprints(model)["bias"] == before["bias"]


def test_a_parameter_without_values_can_sleep() -> None:
    """As a NemotronH has them in vLLM: there is nothing of it to verify."""
    model = nn.Linear(4, 1)
    model.none = nn.Parameter(torch.empty(0))  # type: ignore[assignment]
    assert fingerprints(model)["none"] == 0


def test_shards_that_cannot_be_verified_do_not_sleep() -> None:
    with pytest.raises(UserError, match=r"engine\.sleep with tensor_parallel_size > 1"):
        Sleeper(Sleepy(), EngineConfig(sleep=True, tensor_parallel_size=2))


@dataclass
class Arguments:
    """A few of EngineArgs' fields."""

    enforce_eager: bool = False
    kv_cache_dtype: str = "auto"


def test_options_of_vllm_pass_and_unknown_or_own_ones_do_not() -> None:
    given = EngineConfig(vllm={"kv_cache_dtype": "fp8"}, gpus=0.6, sleep=True)
    assert further_options(given, Arguments) == {"kv_cache_dtype": "fp8"}
    assert gpu_settings(given)["enable_sleep_mode"] is True
    with pytest.raises(UserError, match=r"kv_cache_dtyp'.* did you mean 'kv_cache_dtype'"):
        further_options(EngineConfig(vllm={"kv_cache_dtyp": "fp8"}), Arguments)
    for name in OWN_OPTIONS:
        with pytest.raises(UserError, match=f"{name}' is set by Anneal itself"):
            EngineConfig.read({"vllm": {name: 1}}, where="engine")
