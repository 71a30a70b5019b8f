"""Which checkpoint of a TRL stage is continued, and what of it is logged."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.distributed import group
from workbench.strict_trainer import MetricsCallback, last_checkpoint


def checkpoint(folder: Path, step: int, *, whole: bool) -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    torch.save({"weight": torch.ones(1)}, path / "anneal_model.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if whole:
        (path / "anneal_complete.json").write_text('{"workers": 1}')


def test_the_newest_whole_one_is_continued_and_halves_are_deleted(tmp_path: Path) -> None:
    """A kill while saving leaves a folder without its last file; 100 is newer than 20, not older."""
    assert last_checkpoint(tmp_path) is None
    for step, whole in ((20, True), (100, True), (9, True), (120, False)):
        checkpoint(tmp_path, step, whole=whole)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert not (tmp_path / "checkpoint-120").exists()
    assert (tmp_path / "checkpoint-20").is_dir()


@pytest.mark.parametrize("first", [True, False])
def test_further_metrics_are_asked_for_on_every_process_and_logged_by_the_first(
    first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked is forgotten there; a process that never asked would hold all of a training's."""
    monkeypatch.setattr(group, "is_first", lambda: first)
    logged: list[dict[str, float]] = []
    asked: list[int] = []
    context: Any = SimpleNamespace(log_metrics=lambda step, found, tokens: logged.append(found))

    def more() -> dict[str, float]:
        asked.append(1)
        return {"further": 2.0}

    told = MetricsCallback(context, {"loss": "loss"}, about="", more=more)
    state: Any = SimpleNamespace(global_step=1)
    nothing: Any = None
    told.on_log(nothing, state, nothing, {"loss": 1.0})
    assert len(asked) == 1
    assert logged == ([{"loss": 1.0, "further": 2.0}] if first else [])
