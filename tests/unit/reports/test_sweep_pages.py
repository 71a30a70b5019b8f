"""The table's numbers, the published figures beside them, and where a result departs."""

import json
from pathlib import Path
from typing import Any

from evals.registry import benchmark
from reports import read_run, write_report
from reports.sweep import SweepRow, departures, notes, sample_views, sweep_rows
from workbench.records import UNKNOWN, ModelDifference, Result, from_json, to_json
from workbench.rundir import Manifest, RunDir

METRIC = {"value": 0.5, "stderr": 0.05, "ci95": [0.4, 0.6]}


def _result(root: Path, model: str, name: str, budget: int | None, **more: Any) -> dict[str, Any]:
    protocol = benchmark(name).protocol
    data = {
        "model": model, "benchmark": name, "budget": budget, "n": 30, "num_samples": 16,
        "metrics": {"accuracy": METRIC, "overall": METRIC, "mean": METRIC}, "headline": "accuracy",
        "well_formed_rate": 0.9, "truncated": 3, "failed": 2,
        "sampling": {"temperature": protocol.temperature, "top_p": protocol.top_p,
                     "max_tokens": protocol.max_tokens, "limit": None},
    } | more  # fmt: skip
    folder = root / "evals" / model / (name if budget is None else f"{name}@{budget}")
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(data))
    if not (root / "recipe.json").is_file():
        (root / "recipe.json").write_text('{"stages": {}}')
    return data


def _rows(root: Path) -> dict[str, SweepRow]:
    return {row.name: row for row in sweep_rows(read_run(root))}


def _index(root: Path) -> str:
    write_report(root)
    return (root / "evals" / "index.html").read_text()


def test_published_figures_stand_beside_their_own_mode(tmp_path: Path) -> None:
    _result(tmp_path, "mine", "aime24", None)
    _result(tmp_path, "mine", "aime24", 0)
    _result(tmp_path, "mine", "ruler-128k", 0)
    rows = _rows(tmp_path)
    assert rows["aime24"].paper["12B aligned"] == 85.42  # [paper], Table 8
    assert rows["aime24@0"].paper == {}
    assert rows["ruler-128k@0"].paper["Qwen3-8B"] == 74.13  # [paper], Table 8
    assert rows["aime24"].departures == []
    assert rows["aime24@0"].departures == ["reasoning off"]
    page = _index(tmp_path)
    assert "85.4" in page and "40.0 to 60.0" in page and "n = 30 x 16" in page
    assert "3 cut" in page and "2 failed" in page


def test_departures_are_named(tmp_path: Path) -> None:
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 200, "limit": 50}
    data = _result(tmp_path, "m", "bfcl-v3-simple", None, num_samples=1, sampling=sampling)
    assert departures(from_json(Result, data), benchmark("bfcl-v3-simple")) == [
        "the first 50 questions (of each category) only",
        "temperature 0, not 0.6",
        "top-p 1, not 0.95",
        "at most 200 tokens, not 32,768",
    ]


def test_what_a_served_model_cost_stands_on_the_pages(tmp_path: Path) -> None:
    """Beside its value; of one without a price nothing is said."""
    price = {"sum": 0.01234, "currency": "USD"}
    _result(tmp_path, "dear", "bfcl-v3-simple", None, cost=price)
    _result(tmp_path, "odd", "bfcl-v3-simple", None, cost=price | {"sum": None})
    _result(tmp_path, "free", "bfcl-v3-simple", None)
    page = _index(tmp_path)
    assert page.count("<small>cost 0.0123 USD</small>") == 1
    assert page.count("cost not known") == 1 and page.count("<small>cost") == 2


def test_each_model_has_its_own_departures(tmp_path: Path) -> None:
    """The table named those of the alphabet's first model for all."""
    whole = _result(tmp_path, "ada", "aime24", None)["sampling"]
    _result(tmp_path, "bob", "aime24", None, sampling=whole | {"limit": 5})
    page = _index(tmp_path)
    assert "aime24: bob: the first 5 questions (of each category) only" in page
    pages = [(tmp_path / "evals" / m / "aime24" / "index.html").read_text() for m in ("ada", "bob")]
    assert ["not the protocol: the first 5" in text for text in pages] == [False, True]
    _result(tmp_path, "cy", "aime25", None, sampling=whole | {"limit": 5})
    _result(tmp_path, "dan", "aime25", None, sampling=whole | {"limit": 5})
    assert "aime25: the first 5 questions" in _index(tmp_path)


def test_models_are_in_the_recipes_order_and_budgets_by_number(tmp_path: Path) -> None:
    for model in ("ada", "grpo", "pretrain", "sft"):
        for budget in (None, 4, 16, 128, 0):
            _result(tmp_path, model, "aime24", budget)
    _result(tmp_path, "grpo", "aime25", None)
    evals = {"kind": "evals", "benchmarks": ["aime25", "aime24"]}
    stages = {"pretrain": {}, "sft": {}, "grpo": {}, "evals": evals}
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "r", "stages": stages}))
    assert read_run(tmp_path).models == ["pretrain", "sft", "grpo", "ada"]
    names = list(_rows(tmp_path))
    assert list(_rows(tmp_path)["aime24"].cells) == ["pretrain", "sft", "grpo", "ada"]
    assert names == ["aime25", *("aime24" + end for end in ("", "@0", "@4", "@16", "@128"))]


def test_a_result_of_an_earlier_checkpoint_is_marked_and_not_compared(tmp_path: Path) -> None:
    for model in ("sft", "grpo"):
        _result(tmp_path, model, "aime24", None, completion=f"{model}-1")
        manifest = Manifest(model, "sft", "done", {}, "c", 1, completion=f"{model}-1")
        RunDir(tmp_path).write_manifest(manifest)
    (tmp_path / "recipe.json").write_text(json.dumps({"stages": {"sft": {}, "grpo": {}}}))
    pair = ModelDifference(
        UNKNOWN, UNKNOWN, UNKNOWN, against="sft", benchmark="aime24", model="grpo"
    )
    (tmp_path / "evals" / "comparisons.json").write_text(json.dumps([to_json(pair)]))
    (found,) = read_run(tmp_path).comparisons
    assert (found.benchmark, found.against, found.model) == ("aime24", "sft", "grpo")
    manifest.completion = "grpo-2"
    RunDir(tmp_path).write_manifest(manifest)
    cells = _rows(tmp_path)["aime24"].cells
    assert "of an earlier checkpoint" in notes(cells["grpo"])
    assert "of an earlier checkpoint" not in notes(cells["sft"])
    assert read_run(tmp_path).comparisons == []


def test_samples_carry_their_filters(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "value": 1.0, "well_formed": True, "finish_reason": "stop"},
        {"id": "b", "value": 0.0, "well_formed": False, "finish_reason": "length"},
        {"id": "c", "value": None, "status": "timeout", "finish_reason": "length"},
        {"id": "d", "value": 0.5, "well_formed": True, "finish_reason": "stop"},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    views, counts = sample_views(tmp_path)
    assert [classes for classes, _ in views] == [
        "all right", "all cut wrong ill", "all cut failed", "all wrong",
    ]  # fmt: skip
    assert [view.verdict for _, view in views] == ["right", "wrong", "failed", "50% right"]
    assert counts == {"all": 4, "right": 1, "wrong": 2, "cut": 2, "ill": 1, "failed": 1}
