"""Trainer and engine on one card in turns: neither is ever at work while the other has the card's memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.actor import EngineActor, Lease
from engine.config import EngineConfig
from rl import weight_sync
from rl.loop import Grpo
from rl.turns import Mover, Turns
from rl.weight_sync import base_marks, carried
from tests.unit.rl.test_grpo_loop import fit, grpo
from tests.unit.rl.test_grpo_lora import with_lora
from tests.unit.rl.test_grpo_state import grpo as state_grpo


def in_turns(trainer: Grpo) -> list[str]:
    """Have this trainer take turns on a card of memory for one; what is done, in order. Whoever is at work in
    the other's turn fails."""
    done = ["trainer on card"]

    def move(away: bool) -> None:
        done.append("trainer away" if away else "trainer on card")

    trainer.turns = Turns(on=True, move=move, rest=lambda: done.append("engine asleep"))
    engine: Any = trainer.sampler.engine  # type: ignore[union-attr]
    sampler: Any = trainer.sampler

    def with_card(who: str, function: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            places = [d for d in done if d.startswith("trainer")]
            assert places[-1] == ("trainer away" if who == "engine" else "trainer on card"), done
            done.append(f"{who} {function.__name__}")
            return function(*args, **kwargs)

        return called

    engine.update_weights = with_card("engine", engine.update_weights)
    sampler.roll_out = with_card("engine", sampler.roll_out)
    trainer.model.forward = with_card("model", trainer.model.forward)  # type: ignore[method-assign]
    base: Any = trainer.model.base_model
    base.forward = with_card("model", base.forward)
    return done


def test_neither_is_at_work_in_the_others_turn(tmp_path: Path) -> None:
    trainer = grpo(lambda n: [1.0, 0.0])
    done = in_turns(trainer)
    fit(trainer, tmp_path)
    seen = [what for what in done if not what.startswith("model")]
    step = ["engine roll_out", "engine asleep", "trainer on card", "trainer away"]
    synced = [*step, "engine update_weights"]
    assert seen == ["trainer on card", "trainer away", "engine update_weights", *synced]
    assert [w for w in done if w.startswith("model")]


def test_turns_change_no_bit_of_the_training(tmp_path: Path) -> None:
    plain, taking = (grpo(lambda n: [1.0, 0.0]) for _ in range(2))
    in_turns(taking)
    assert fit(plain, tmp_path / "a")[-1]["loss"] == fit(taking, tmp_path / "b")[-1]["loss"]
    for mine, other in zip(plain.model.parameters(), taking.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_all_of_the_trainer_moves_and_stays_what_it_is() -> None:
    """Weights, gradients, buffers, the reference and the moments lie elsewhere afterwards, with the same bits, and
    are still the optimizer's."""
    trainer = state_grpo(loss={"kl_coefficient": 0.1})
    updater = trainer.updater
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    updater.optimizer.step()

    def held() -> list[torch.Tensor]:
        assert updater.reference is not None
        return [
            *trainer.model.parameters(), *trainer.model.buffers(), *updater.reference.parameters(),
            *(p.grad for p in trainer.model.parameters() if p.grad is not None),
            *(v for state in updater.optimizer.state.values() for v in state.values()),
        ]  # fmt: skip

    bits = [t.detach().clone() for t in held()]
    assert len(bits) >= 6 * len(list(trainer.model.parameters()))
    models = [trainer.model, updater.reference]
    move = Mover(models, updater.optimizer, put=lambda tensor, device: tensor.clone())
    kept = [t.detach() for t in held()]  # so that no address is used twice
    for away in (True, False):
        move(away)
        assert not {t.data_ptr() for t in held()} & {t.data_ptr() for t in kept}
        assert all(torch.equal(now, then) for now, then in zip(held(), bits, strict=True))
        assert {id(p) for g in updater.optimizer.param_groups for p in g["params"]} == {
            id(p) for p in trainer.model.parameters()
        }
        kept += [t.detach() for t in held()]


def test_a_base_that_only_moved_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = with_lora(state_grpo)
    known = base_marks(trainer.model)
    monkeypatch.setattr(weight_sync, "_mark", lambda tensor: pytest.fail("it was read again"))

    def move() -> None:
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.clone()

    with carried(trainer.model):
        move()
    assert base_marks(trainer.model) == known
    monkeypatch.setattr(weight_sync, "_mark", lambda tensor: "anew")
    move()
    assert base_marks(trainer.model) != known


def test_on_a_cpu_nobody_moves() -> None:
    trainer = grpo(lambda n: [1.0, 0.0], gpus=0.35, engine={"gpus": 0.6, "sleep": True})
    assert not trainer.turns.on


def test_an_engine_that_is_given_back_leaves_the_card() -> None:
    asked: list[str] = []

    class Asked:
        def __init__(self, model: str, config: EngineConfig) -> None: ...

        def abort(self) -> None:
            asked.append("abort")

        def rest(self) -> None:
            asked.append("rest")

    for sleeps in (False, True):
        actor, lease = EngineActor(engine_class=Asked), Lease("here", 1, 0)
        assert actor.acquire(lease)
        actor.start("model", EngineConfig(sleep=sleeps))
        actor.release(lease)
    assert asked == ["abort", "rest"]  # what was still asked would keep it awake
