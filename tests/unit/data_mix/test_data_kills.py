"""Data stages that are killed are equal to the bit to those that are not: five kills here, a hundred in stress."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data_kills import differ_after_kills
from tests.data_stages import files_of
from tests.small_disk import small_disk


def _stages(folder: Path) -> dict[str, Any]:
    rng, words = random.Random(0), [f"word{n}" for n in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 80))) for _ in range(60)]
    path = folder / "texts.jsonl"
    rows = [{"id": f"t{n}", "text": text} for n, text in enumerate([*texts, *texts[:20]])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "form": "text", "column": "text", "path": str(path)}
    clean = {"needs": ["pages"], "keep_removed": 1.0}
    steps = [{"type": "length", "least": 100}]
    return {
        "pages": {"kind": "curate", "input": source, "steps": steps, "rows_per_shard": 20, "keep_removed": 0.5},
        "clean": {"kind": "dedup", "inputs": ["pages"], "bands": 3, "rows": 4, **clean},
    }  # fmt: skip


def test_five_kills_change_nothing(tmp_path: Path) -> None:
    assert differ_after_kills(tmp_path, _stages(tmp_path), kills=5, seed=1) == []


@pytest.mark.stress
def test_a_hundred_kills_change_nothing(tmp_path: Path) -> None:
    assert differ_after_kills(tmp_path, _stages(tmp_path), kills=100, seed=2) == []


def _run(folder: Path, stages: dict[str, Any]) -> tuple[int, str]:
    """One run in a process of its own: (exit code, its last line)."""
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tests.data_stages import run_stages\n"
        "from workbench.errors import UserError\n"
        "try:\n"
        "    number, said = run_stages(Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "except UserError as error:\n"
        "    number, said = 2, str(error)\n"
        "print(said)\n"
        "sys.exit(number)\n"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(stages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.stress
@pytest.mark.parametrize("room", [40, 90, 120, 150, 170])
def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(tmp_path: Path, room: int) -> None:
    stages, place = _stages(tmp_path), tmp_path / "disk"
    with small_disk(place) as disk:
        disk.leave(room)
        exit_code, said = _run(place / "run", stages)
        assert exit_code != 0 and "no disk space" in said and said.count("\n") < 4, said
        disk.grow()
        assert _run(place / "run", stages)[0] == 0
        assert _run(tmp_path / "whole", stages)[0] == 0
        for stage in stages:
            assert files_of(place / "run", stage) == files_of(tmp_path / "whole", stage)
