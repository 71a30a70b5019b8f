"""Resumable state: the newest is continued, a kill or a full disk leaves the one before."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.checkpoint import Checkpoints


def test_the_newest_is_continued_and_older_ones_go(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.load_latest() is None
    for step in (5, 10, 15):
        kept.save(step, {"step": step, "model": torch.full((2,), float(step))})
    assert [path.name for path in kept.paths()] == ["step-00000010.pt", "step-00000015.pt"]
    state = kept.load_latest()
    assert state is not None and state["step"] == 15
    assert state["model"].tolist() == [15.0, 15.0]


def test_a_save_that_fails_in_the_middle_leaves_the_older_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reader ever sees half of a state under its name, nor what is left of one."""
    kept = Checkpoints(tmp_path)
    kept.save(5, {"step": 5})
    seen: list[list[str]] = []
    plain = os.fsync

    def full(number: int) -> None:
        seen.append([path.name for path in kept.paths()])
        plain(number)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        kept.save(10, {"step": 10})
    assert seen == [["step-00000005.pt"]]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005.pt"]
    state: Any = kept.load_latest()
    assert state["step"] == 5
