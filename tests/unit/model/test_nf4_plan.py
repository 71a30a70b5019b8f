"""A base in 4 bits, without its package: refusals, and what the plan says."""

from pathlib import Path
from typing import Any

import pytest

from model import cost, lora_config
from model.estimate import HARDWARE, price
from model.lora import load_base
from model.lora_config import LoraConfig
from model.presets import shape
from model.sizes import parameters
from rl.config import GrpoConfig
from workbench import registry
from workbench.errors import UserError
from workbench.load import TrainingLoad
from workbench.recipe import build

HOW = LoraConfig(rank=2, alpha=4, base="nf4")


def test_without_the_package_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lora_config, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes.*pip install") as error:
        load_base(tmp_path / "nothing is read", HOW, "cpu")
    assert "\n" not in str(error.value)


def test_several_processes_are_refused() -> None:
    world = {"type": "world", "domain": "math"}
    body = {
        "kind": "grpo", "prompts": world, "held_out": world, "lora": {"base": "nf4"},
        "distributed": {"workers": 2, "strategy": "fsdp"},
    }  # fmt: skip
    with pytest.raises(UserError, match="lora.base nf4 with 2 workers"):
        GrpoConfig.read(body, where="x")


def test_the_plans_bytes() -> None:
    """[derived] 9B: a code of half a byte, 1/64 of one and 4/16,384 for each weight of a projection, 2 bytes for the
    rest: embeddings and head 2 x 131,072 x 4,480, and norms, convolutions and scalars."""
    s = shape("nano2-9b")
    load = TrainingLoad(1, 128, lora_rank=16, base="nf4", precision="bf16")
    few = sum(layer.parameters for layer in cost.products(s))
    assert 0 < parameters(s) - few - 2 * 131_072 * 4480 < 3e6
    assert cost.base_bytes(s, "nf4") == round(few * (0.5 + 1 / 64 + 1 / 4096)) + 2 * (
        parameters(s) - few
    )
    held = cost.training_memory(s, load)
    assert held.weights == cost.base_bytes(s, "nf4") + 4 * cost.lora_parameters(s, 16)
    bf16 = cost.training_memory(
        s, TrainingLoad(1, 128, lora_rank=16, base="bfloat16", precision="bf16")
    )
    assert held.weights < 0.4 * bf16.weights
    assert held.buffers - bf16.buffers == 2 * 4480 * (2 * 10240 + 2 * 8 * 128 + 128)


_WORLD = {"type": "world", "domain": "math"}
_HOUSE = {"type": "house"}
_PAIRS = {"type": "jsonl", "path": "pairs.jsonl", "form": "pairs"}
_LABELLED = {"type": "jsonl", "path": "replies.jsonl", "form": "labelled"}
_WITH_ADAPTERS: dict[str, dict[str, Any]] = {
    "sft": {"parts": {"one": {"source": _WORLD, "samples": 4}}},
    "grpo": {"prompts": _WORLD, "held_out": _WORLD},
    "dpo": {"tasks": _HOUSE, "held_out": _HOUSE},
    "offline_dpo": {"source": _PAIRS, "held_out": _PAIRS, "samples": 4},
    "kto": {"source": _LABELLED, "held_out": _LABELLED, "samples": 4},
    "reward_model": {"prompts": _WORLD, "held_out": _WORLD},
}
"""Every kind that has a section `lora`."""


def _kinds_with_adapters() -> set[str]:
    kinds = {name: registry.resolve(kind.config) for name, kind in registry.kinds().items()}
    return {name for name, config in kinds.items() if "lora" in config.model_fields}


@pytest.mark.parametrize("kind", sorted(_kinds_with_adapters()))
def test_the_plan_of_every_kind_knows_the_base(kind: str) -> None:
    """[derived] A 9B in 4 bits and bfloat16 takes less than half of bfloat16's 2 bytes a parameter, that half of
    float32's."""
    held = {}
    for base in ("float32", "bfloat16", "nf4"):
        section = _WITH_ADAPTERS[kind] | {"kind": kind, "lora": {"rank": 3, "base": base}}
        recipe = build({"name": "t", "stages": {"one": section}})
        plan = registry.resolve(registry.kind(kind).plan)(recipe.stages["one"], recipe)
        (load,) = (load for load in plan.loads if isinstance(load, TrainingLoad))
        assert (load.base, load.lora_rank) == (base, 3)
        held[base] = price(shape("nano2-9b"), load, HARDWARE["h100"])["memory"]["weights"]
    adapters = 4 * cost.lora_parameters(shape("nano2-9b"), 3)
    assert held["float32"] - adapters == 2 * (held["bfloat16"] - adapters)
    assert held["nf4"] < 0.5 * held["bfloat16"]
