"""What one GRPO update does to the weights, and what a resume of it needs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.rl.test_grpo_loop import fit, grpo


def mixed(number: int) -> list[float | None]:
    return [1.0, 0.0]


def test_gradients_are_clipped_to_the_norm_that_was_asked_for() -> None:
    trainer = grpo(mixed, grad_clip=0.5)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    norms: list[float] = []
    plain = trainer.updater.optimizer.step

    def watched() -> Any:
        grads = [p.grad for p in trainer.model.parameters()]
        norms.append(float(nn.utils.get_total_norm(grads)))
        return plain()

    trainer.updater.optimizer.step = watched  # type: ignore[assignment,method-assign]
    told = trainer.updater.step()
    size = sum(p.numel() for p in trainer.model.parameters())
    assert told == pytest.approx(0.1 * size**0.5, rel=1e-4)
    assert norms == [pytest.approx(0.5, rel=1e-4)]
    assert all(p.grad is None for p in trainer.model.parameters())


def test_gradients_that_are_not_finite_move_nothing() -> None:
    trainer = grpo(mixed)
    before = copy.deepcopy(trainer.model.state_dict())
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.raises(FloatingPointError, match=r"gradient norm (inf|nan) is not finite"):
        trainer.updater.step()
    after = trainer.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_reference_stays_where_the_stage_started(tmp_path: Path) -> None:
    trainer = grpo(mixed, lr=1e-2, loss={"correction": "none", "kl_coefficient": 0.1})
    start = copy.deepcopy(trainer.model.state_dict())
    fit(trainer, tmp_path)
    assert trainer.updater.reference is not None
    moved = trainer.model.state_dict()
    for name, tensor in trainer.updater.reference.state_dict().items():
        assert torch.equal(tensor, start[name]), name
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_without_a_kl_term_no_reference_is_kept() -> None:
    assert grpo(mixed).updater.reference is None


def test_a_state_restores_the_optimizers_moments(tmp_path: Path) -> None:
    trainer = grpo(mixed)
    fit(trainer, tmp_path)
    state = copy.deepcopy(trainer.state_dict())
    other = grpo(mixed)
    other.load_state_dict(state)
    moments = other.updater.optimizer.state_dict()["state"]
    assert moments.keys() == state["optimizer"]["state"].keys()
    for number, own in state["optimizer"]["state"].items():
        assert torch.equal(moments[number]["exp_avg"], own["exp_avg"])
        assert torch.equal(moments[number]["exp_avg_sq"], own["exp_avg_sq"])
    assert any(bool(own["exp_avg"].any()) for own in moments.values())
