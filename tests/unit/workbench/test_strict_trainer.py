"""Which checkpoint of a TRL stage is continued."""

import json
from pathlib import Path

import torch

from workbench.strict_trainer import last_checkpoint


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
