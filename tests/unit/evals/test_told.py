"""Told budgets: the prompt says a budget, nothing enforces it, and the reply is held against it."""

from pathlib import Path
from typing import Any

import pytest

from budget.curves import budget_curves
from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.models import Model
from evals.sweep import sweep
from tests.scripted_models import ScriptedResponder
from workbench.errors import UserError

STAGE = {
    "kind": "evals", "benchmarks": ["mini-math"], "thinking": ["with", "without"], "budgets": [4, 8], "limit": 3,
    "told": "Think for at most {budget} tokens.", "thinking_grace": 2,
}  # fmt: skip


def test_the_budget_is_in_the_prompt_and_not_in_the_sampling() -> None:
    free, off, four, eight = jobs_of(EvalsConfig.read(STAGE, where="evals"), seed=0)
    assert [job.folder for job in (free, off, four, eight)] == [
        "mini-math-told", "mini-math@0", "mini-math-told@4", "mini-math-told@8",
    ]  # fmt: skip
    assert {job.sampling.thinking_budget for job in (free, off, four, eight)} == {None}
    assert [job.told is None for job in (free, off, four, eight)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"told": "Be brief."}, "must hold {budget}"),
        ({"benchmarks": ["house"]}, "'house': budgets are told in single questions"),
        ({"benchmarks": ["mmlu"]}, "not in tasks of lm-eval"),
    ],
)
def test_what_cannot_be_told_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        jobs_of(EvalsConfig.read(STAGE | fields, where="evals"), seed=0)


class _Six(ScriptedResponder):
    """Thinks six words whatever it is told, and counts every prompt."""

    def __init__(self) -> None:
        super().__init__(lambda messages, seed: "<think>\na b c d e f\n</think>\n\n4")


def test_replies_are_held_against_what_they_were_told(tmp_path: Path) -> None:
    stage = EvalsConfig.read(STAGE | {"thinking": ["with"]}, where="evals")
    model = _Six()
    results = sweep(
        [Model("m", str(tmp_path))], stage, out=tmp_path, seed=3, respond=lambda *given: model
    )
    asked = [messages[-1]["content"].rpartition("\n")[2] for messages in model.asked]
    said = [line for line in asked if line.startswith("Think")]
    assert sorted(said) == [f"Think for at most {n} tokens." for n in (4, 4, 4, 8, 8, 8)]
    assert len(asked) == 9
    assert [r["sampling"].get("told") for r in results["m"]] == [None, *[STAGE["told"]] * 2]
    (curve,) = budget_curves(tmp_path)
    assert curve.benchmark == "mini-math-told"
    assert [point.budget for point in curve.points] == [4, 8, None]
    kept = [point.adherence.value for point in curve.points]
    assert kept[:2] == [0.0, 1.0] and kept[2] != kept[2]  # NaN where nothing was told
    assert [point.thinking.value for point in curve.points] == [6, 6, 6]
