"""A base in 4 bits, without its package: refusals, and what the plan says."""

from pathlib import Path

import pytest

from model import cost, lora_config
from model.lora import load_base
from model.lora_config import LoraConfig
from model.presets import shape
from model.sizes import parameters
from rl.config import GrpoConfig
from workbench.errors import UserError
from workbench.load import TrainingLoad

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
