"""Records of results: JSON both ways, what is not known, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import UserError
from workbench.panels import MetricPanel, PointsPanel
from workbench.records import (
    UNKNOWN,
    Difference,
    Estimate,
    ModelDifference,
    Result,
    Sample,
    from_json,
    questions_of,
    read_list,
    read_result,
    read_samples,
    to_json,
)
from workbench.registry import kinds
from workbench.rundir import json_text, write_json
from workbench.tracking import metric

HALF = Estimate(0.5, 0.1, (0.3, 0.7), 20)


def _strict(text: str) -> Any:
    """JSON as its standard has it: neither NaN nor Infinity."""

    def refused(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refused)


@pytest.mark.parametrize(
    "record",
    [
        HALF,
        Difference(HALF, HALF, HALF, "held-out reward", unit="rows", failed=2, p=0.25),
        ModelDifference(
            HALF, HALF, HALF, benchmark="gsm8k", model="b", against="a", p=1.0, p_holm=1.0
        ),
        Result("m", "gsm8k", 64, 20, {"accuracy": HALF}, detectable=0.1, sampling={"limit": 3}),
        PointsPanel("by alpha", [0.0, 1.0], [HALF, HALF], "alpha"),
    ],
)
def test_a_record_comes_back_as_it_was(record: Any) -> None:
    text = json.dumps(to_json(record))
    assert _strict(text)["version"] == 1
    assert from_json(type(record), json.loads(text)) == record


def test_what_is_not_known_is_null_in_json_and_nan_here(tmp_path: Path) -> None:
    written = to_json(Difference(UNKNOWN, HALF, UNKNOWN))
    assert written["before"] == {"value": None, "stderr": None, "ci95": [None, None], "n": 0}
    assert written["p"] is None
    found = from_json(Difference, written)
    assert math.isnan(found.before.low) and math.isnan(found.p) and found.after == HALF
    assert not found.difference.clear_of_zero
    # Whatever else a stage writes: no file of a run holds NaN.
    write_json(
        tmp_path / "m.json", {"mean": math.nan, "many": [1.0, math.inf], "text": "NaN \ud800"[:4]}
    )
    assert _strict((tmp_path / "m.json").read_text()) == {
        "mean": None, "many": [1.0, None], "text": "NaN ",
    }  # fmt: skip
    assert json_text({"a": 1.5}) == '{"a": 1.5}'


def test_results_of_before_records_are_read_and_later_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    old = {
        "model": "m", "benchmark": "b", "budget": None, "n": 4, "num_samples": 1,
        "metrics": {"accuracy": {"value": 0.5, "stderr": None, "ci95": [None, None]}},
        "tokens": {"thinking_mean": 1.0, "answer_mean": 2.0}, "well_formed_rate": None,
        "checker_versions": {}, "seed": 1, "wall_s": 1.0, "detectable": None, "harness": {"shots": 5},
    }  # fmt: skip
    path.write_text(json.dumps(old))
    assert read_result(path).metrics["accuracy"].value == 0.5
    path.write_text(json.dumps(old | {"version": 2}))
    with pytest.raises(UserError, match="version 2 of Result: made by a later Anneal"):
        read_result(path)
    path.write_text(json.dumps({k: v for k, v in old.items() if k != "metrics"}))
    with pytest.raises(UserError, match="no Result of this version: metrics: Field required"):
        read_result(path)
    odds: tuple[Any, ...] = ([], 3, "text", None, {"version": "x"})
    for odd in odds:
        with pytest.raises(ValueError, match="Result"):
            from_json(Result, odd)
    assert read_list(tmp_path / "nothing.json", Difference) == []
    path.write_text('{"no": "list"}')
    with pytest.raises(ValueError, match="Difference"):
        read_list(path, Difference)


def test_samples_are_what_the_line_says(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "value": 1, "tokens": {"thinking": 3, "answer": 4}, "reply": "x", "key": "k"},
        {"id": "a", "value": 0.0, "thinking": "half \ud800", "why": None, "problem": 7},
        {"id": 5, "value": None, "prompt": [{"role": "user", "content": "?"}]},
        {"id": "n", "value": math.nan},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "torn')
    first, second, failed, nan = read_samples(tmp_path, texts=True)
    assert (first.value, first.tokens.answer, first.asks) == (1.0, 4, "a")
    assert (second.thinking, second.why, second.asks) == ("half \ud800", {}, "7")
    assert (failed.id, failed.value, nan.value) == ("5", None, None)
    assert failed.prompt and next(read_samples(tmp_path)).prompt is None
    (question,) = questions_of(read_samples(tmp_path)).values()
    assert (question.id, question.value, len(question.samples)) == ("a", 0.5, 2)
    path.write_text('{"id": "a", "value": 1}\n{"id": "b", "value": "good"}\n')
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2: no Sample .*value: .*number"):
        list(read_samples(tmp_path))


def test_the_pictures_of_a_kind_are_of_declared_metrics() -> None:
    panels = [panel for kind in kinds().values() for panel in kind.panels]
    assert len(panels) >= 4 and all(isinstance(panel, MetricPanel) for panel in panels)
    assert [p.metric for p in panels if metric(p.metric) is None] == []


def test_a_sample_has_a_name() -> None:
    with pytest.raises(ValueError, match="id: Field required"):
        from_json(Sample, {"value": 1.0})
