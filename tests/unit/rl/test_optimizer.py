"""The learning rate of a step, and an optimizer that is not there."""

import builtins
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from rl.config import GrpoConfig
from rl.optimizer import make_optimizer, rate_share
from tests.unit.rl.test_grpo_loop import grpo
from workbench.errors import UserError


def test_rates_by_hand() -> None:
    """Ten steps, 0.3 of them warm-up: 1/3, 2/3, 1, and then seven of the schedule."""
    shares = [rate_share(step, 10, 0.3, "linear") for step in range(10)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, *(n / 7 for n in range(7, 0, -1))])
    assert [rate_share(step, 3, 0.0, "constant_with_warmup") for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_behind_the_warm_up_it_is_transformers_schedule(schedule: str) -> None:
    """Theirs gives the first update the rate 0; ours is one update ahead in the warm-up alone."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=4, num_training_steps=20)
    for step in range(20):
        rate, given = optimizer.param_groups[0]["lr"], rate_share(step, 20, 0.2, schedule)  # type: ignore[arg-type]
        assert given == pytest.approx(rate + 0.25 if step < 4 else rate)
        optimizer.step()
        theirs.step()


def test_every_update_has_the_rate_of_its_step() -> None:
    trainer = grpo(
        lambda n: [1.0, 0.0], num_steps=4, warmup_share=0.5, lr_scheduler="linear", lr=0.008
    )
    rates = []
    for step in range(4):
        trainer.step = step
        assert trainer.update(trainer.collect(0))["lr"] == trainer.updater.rate(step)
        rates.append(trainer.updater.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.004, 0.008, 0.008, 0.004])


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refused(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    world = {"type": "world", "domain": "math"}
    config = GrpoConfig.read(
        {"kind": "grpo", "prompts": world, "held_out": world, "optimizer": "adamw_8bit"}, where="x"
    )
    with pytest.raises(UserError, match="needs the package bitsandbytes, which is not installed"):
        make_optimizer(torch.nn.Linear(2, 2), config)


def test_eight_bits_move_the_weights_as_far() -> None:
    """Adam's first step is lr in every weight, whatever the moments are kept in."""
    pytest.importorskip("bitsandbytes")
    trainer = grpo(lambda n: [1.0, 0.0], optimizer="adamw_8bit", lr=1e-3)
    before = {k: v.detach().clone() for k, v in trainer.model.named_parameters()}
    trainer.update(trainer.collect(0))
    moved = {
        k: float((v.detach() - before[k]).abs().max()) for k, v in trainer.model.named_parameters()
    }
    assert all(size < 1.1e-3 for size in moved.values()) and max(moved.values()) > 0.9e-3
