"""Data stages that are killed are equal to the bit to those that are not: five kills here, a hundred in stress."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.data_kills import differ_after_kills


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
