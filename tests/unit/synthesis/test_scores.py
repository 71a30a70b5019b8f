"""From a model's ratings to kept rows: rubric, classifier, the step `score` of curate, one recipe."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.data_stages import data_of, rows_of, run_stages
from tests.scripted_server import serving
from tests.unit.data_mix.test_quality import page
from workbench.rundir import read_json


def rating(body: dict[str, Any]) -> str:
    """Counts the good words; every tenth text gets no rating, or two."""
    said = body["messages"][-1]["content"]
    good = sum(
        said.count(word) for word in ("theorem", "proof", "lemma", "integral", "matrix", "vector")
    )
    if good % 10 == 7:
        return "Hard to say."
    if good % 10 == 9:
        return "Score: 1\nOr rather:\nScore: 4"
    return f"It has {good} of them.\n**Score: {min(5, good // 2)}/5**"


def stages(folder: Path, address: str, count: int = 300) -> dict[str, Any]:
    rng = Random(1)
    lines = [json.dumps({"text": page(rng.randrange(6), rng, n % 30)}) for n in range(count)]
    (folder / "pages.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {
        "type": "jsonl",
        "path": str(folder / "pages.jsonl"),
        "form": "text",
        "column": "text",
    }
    return {
        "rated": {
            "kind": "synthesize", "task": {"type": "rubric"}, "seeds": source, "num_seeds": count // 2,
            "models": [{"endpoint": address, "max_tokens": 99}],
        },
        "quality": {"kind": "quality", "needs": ["rated"], "ratings": "rated", "held_out": 0.3, "buckets": 4096},
        "kept": {
            "kind": "curate", "needs": ["quality"], "input": source,
            "steps": [{"type": "score", "name": "math", "by": {"type": "stage", "stage": "quality"}, "keep": ">=3"}],
        },
    }  # fmt: skip


def test_ratings_become_a_classifier_and_the_classifier_keeps_what_it_scores_high(
    tmp_path: Path,
) -> None:
    with serving(rating) as (address, _):
        code, shown = run_stages(tmp_path / "run", stages(tmp_path, address))
    assert code == 0, shown
    rated = data_of(tmp_path / "run", "rated")
    assert set(rated["removed"]) == {"rubric: no score", "rubric: two scores"}
    found = read_json(tmp_path / "run/quality/manifest.json")["outputs"]["quality"]
    assert found["auc"]["value"] > 0.9
    kept, data = rows_of(tmp_path / "run", "kept"), data_of(tmp_path / "run", "kept")
    assert kept and all(row["math"] >= 3 for row in kept)
    assert data["rows_in"] == 300 == len(kept) + data["removed"]["score: below"]


def test_ratings_of_one_class_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        serving(lambda body: "Score: 2") as (address, _),
        pytest.raises(Exception, match="one class"),
    ):
        run_stages(tmp_path / "run", stages(tmp_path, address, 60))
