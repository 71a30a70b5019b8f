"""Resumable state: tensors and plain values come back; a pickle that asks for more is not opened."""

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.workbench.test_graph import done, recipe
from workbench.checkpoint import Checkpoints, load_state, rng_state, seed_everything, set_rng_state
from workbench.errors import UserError
from workbench.rundir import RunDir
from workbench.strict_trainer import last_checkpoint


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _hostile(mark: Path) -> dict[str, Callable[[Path], Any]]:
    """Ways to put it into a file that torch opens."""
    harm, weight = Harm(mark), torch.zeros(2)
    return {
        "a value": lambda p: torch.save({"model": {"w": weight}, "step": harm}, p),
        "a key's neighbour": lambda p: torch.save({"a": [1, (2, {"b": harm})]}, p),
        "the whole": lambda p: torch.save(harm, p),
        "an old file": lambda p: torch.save(harm, p, _use_new_zipfile_serialization=False),
        "a bare pickle": lambda p: p.write_bytes(pickle.dumps({"step": harm})),
    }


@pytest.mark.parametrize("way", list(_hostile(Path())))
def test_a_hostile_checkpoint_is_one_line_and_runs_nothing(way: str, tmp_path: Path) -> None:
    mark = tmp_path / "harmed"
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"step": 1})
    _hostile(mark)[way](checkpoints.folder / "step-00000002.pt")
    with pytest.raises(UserError, match="step-00000002.pt") as caught:
        checkpoints.load_latest()
    assert "\n" not in str(caught.value) and not mark.exists()
    pickle.loads(pickle.dumps(Harm(mark)))
    assert mark.exists(), "the pickle does harm where it is opened"


def _trainer_folder(folder: Path) -> Path:
    """What a Trainer leaves, as far as it is opened again."""
    whole = folder / "checkpoint-4"
    (whole / "global_step4").mkdir(parents=True)
    (whole / "anneal_complete.json").write_text("{}")
    (whole / "trainer_state.json").write_text('{"global_step": 4}')
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.zeros(2)}
    torch.save(state, whole / "rng_state.pth")
    for name in ("anneal_model.pt", "optimizer.pt", "scheduler.pt"):
        torch.save({"w": torch.zeros(2)}, whole / name)
    torch.save({"w": torch.zeros(2)}, whole / "global_step4" / "zero_pp_rank_0_optim_states.pt")
    return whole


@pytest.mark.parametrize(
    "name",
    ["anneal_model.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth",
     "global_step4/zero_pp_rank_0_optim_states.pt"],
)  # fmt: skip
def test_no_file_of_a_trainers_checkpoint_runs_anything(name: str, tmp_path: Path) -> None:
    """DeepSpeed opens its shards without any care: they are looked at before it does."""
    whole, mark = _trainer_folder(tmp_path), tmp_path / "harmed"
    assert last_checkpoint(tmp_path) == str(whole)
    torch.save({"w": Harm(mark)}, whole / name)
    with pytest.raises(UserError, match="is not opened: it asks for .*mkdir"):
        last_checkpoint(tmp_path)
    (whole / name).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="is damaged"):
        last_checkpoint(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"global_step": "4"}', "\x00\xff"])
def test_a_trainers_state_that_is_garbage_is_one_line(text: str, tmp_path: Path) -> None:
    whole = _trainer_folder(tmp_path)
    (whole / "trainer_state.json").write_text(text)
    with pytest.raises(UserError, match="trainer_state.json"):
        last_checkpoint(tmp_path)
    shutil.rmtree(whole)
    (tmp_path / "checkpoint-last").mkdir()
    assert last_checkpoint(tmp_path) is None


GARBAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("hello"),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:200]),
    "a list": lambda p: torch.save([1], p),
    "a tensor": lambda p: torch.save(torch.zeros(3), p),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_damaged_checkpoint_is_one_line(what: str, tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, {"step": 1, "w": torch.zeros(100)})
    GARBAGE[what](path)
    with pytest.raises(UserError, match="is damaged .* rerun --fresh") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_random_state_comes_back_through_a_file(tmp_path: Path) -> None:
    seed_everything(5)
    np.random.standard_normal()  # leaves the second value of a pair
    path = Checkpoints(tmp_path).save(1, {"rng": rng_state()})
    drawn = [random.random(), *np.random.standard_normal(3), *torch.rand(3).tolist()]
    seed_everything(6)
    set_rng_state(load_state(path)["rng"])
    assert drawn == [random.random(), *np.random.standard_normal(3), *torch.rand(3).tolist()]


def test_state_that_could_not_be_opened_again_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="could never be continued from"):
        Checkpoints(tmp_path).save(1, {"where": Path("x")})


@pytest.mark.parametrize(
    "change",
    [
        "[]", "null", '"done"', "{}", '{"stage": "a"}', "", "\x00",
        {"outputs": None}, {"outputs": []}, {"inputs": 3}, {"attempts": "2"}, {"stage": "../../b"},
        {"data": ["x"]}, {"wall_s": "soon"}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_manifest_that_is_garbage_is_one_line(change: Any, tmp_path: Path) -> None:
    import json

    run = RunDir(tmp_path)
    done(recipe(), run, "a", "1")
    path = run.stage("a") / "manifest.json"
    whole = json.loads(path.read_text())
    text = change if isinstance(change, str) else json.dumps(whole | change)
    path.write_text(text)
    with pytest.raises(UserError, match="delete it to start anew") as caught:
        run.manifest("a")
    assert "\n" not in str(caught.value)
