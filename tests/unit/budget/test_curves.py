"""Curves against the budget: numbers derived by hand."""

import math
import random
from typing import Any

import pytest

from budget.curves import curve
from workbench.errors import UserError
from workbench.records import Sample, from_json, to_json
from workbench.statistics import ratio_interval


def row(question: str, answer: int, **others: Any) -> Sample:
    fields = {"id": question, "value": 1.0, "well_formed": True}
    return from_json(Sample, {**fields, "tokens": {"thinking": 9, "answer": answer}, **others})


def test_a_curve_by_hand() -> None:
    points = curve(
        {
            None: [row("a", 10), row("b", 20), row("c", 99, value=None)],
            8: [
                row("a", 30, adheres=True, well_formed=False),
                row("b", 40, adheres=True, value=0.0),
                row("b", 60, adheres=False),
            ],
        }
    )
    assert [point.budget for point in points] == [8, None]
    small, free = points
    assert (small.questions, free.questions) == (2, 2)
    assert small.accuracy.value == pytest.approx(2 / 3)
    assert small.adherence.value == pytest.approx(2 / 3)
    assert small.well_formed.value == pytest.approx(2 / 3)
    assert small.answer.value == pytest.approx(130 / 3)  # [derived] over samples
    assert small.growth.value == 25.0  # [derived] over questions: (30-10 + 50-20) / 2
    assert small.ratio.value == pytest.approx(80 / 30)
    assert (free.growth.value, free.ratio.value, free.ratio.stderr) == (0.0, 1.0, 0.0)
    assert math.isnan(free.adherence.value)
    shown = to_json(free)
    assert shown["adherence"] == {"value": None, "stderr": None, "ci95": [None, None], "n": 0}
    assert shown["ratio"] == {"value": 1.0, "stderr": 0.0, "ci95": [1.0, 1.0], "n": 2}


def test_without_an_unlimited_run_the_largest_budget_is_the_reference() -> None:
    points = curve({64: [row("a", 10)], 8: [row("a", 15)], 16: [row("a", 12)]})
    assert [(p.budget, p.growth.value) for p in points] == [(8, 5.0), (16, 2.0), (64, 0.0)]


def test_the_ratios_interval_covers_the_truth() -> None:
    """[derived] 95% of intervals over 600 made-up evaluations with a known ratio of 1.5."""
    rng = random.Random(0)
    covered = 0
    for _ in range(600):
        before = [rng.uniform(10, 40) for _ in range(80)]
        after = [1.5 * x + rng.gauss(0, 8) for x in before]
        found = ratio_interval(before, after)
        covered += found.low <= 1.5 <= found.high
    assert 0.92 < covered / 600 < 0.98


def test_what_cannot_be_compared_is_said() -> None:
    cases: list[tuple[dict[int | None, list[Sample]], str]] = [
        ({}, "no scored sample"),
        ({8: [row("a", 1, value=None)]}, "no scored sample at budget 8"),
        ({8: [row("a", 1)], None: [row("b", 1)]}, "share no question"),
    ]
    for rows, says in cases:
        with pytest.raises(UserError, match=says):
            curve(rows)
    assert math.isnan(ratio_interval([0.0], [1.0]).value)
