"""What a thinking budget bought: accuracy, lengths, adherence and form against the budget.

Paper, figure 5: without truncated traces in training the answer grows as the budget shrinks
(compensation) and replies lose their form; with them both stay flat.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import UserError
from workbench.statistics import (
    Estimate,
    mean_interval,
    mean_interval_normal,
    paired_interval,
    problem_of,
)

Row = Mapping[str, Any]
"""A line of samples.jsonl: {id, value, well_formed, tokens: {thinking, answer}, adheres?, ...}."""
Rows = Mapping[int | None, Sequence[Row]]
"""Budget (None: no limit) -> its rows."""
_Z = 1.959963984540054  # normal quantile of 97.5%


@dataclass(frozen=True)
class CurvePoint:
    """One model at one budget (None: no limit). Each estimate has a 95% interval, by question.

    accuracy: over scored samples. thinking, answer: tokens. adherence: share of traces within budget,
    grace and closing tag; NaN without a budget. well_formed: share of replies with exactly one
    `</think>`. growth: how many tokens the answer is longer than without a limit, on the same
    questions. ratio: the answer's mean length over that without a limit; above 1 is compensation.
    """

    budget: int | None
    questions: int
    accuracy: Estimate
    thinking: Estimate
    answer: Estimate
    adherence: Estimate
    well_formed: Estimate
    growth: Estimate
    ratio: Estimate

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; NaN (nothing to estimate) becomes None."""
        estimates = {
            name: _json(getattr(self, name))
            for name in (*_MEASURES, "adherence", "growth", "ratio")
        }
        return {"budget": self.budget, "questions": self.questions, **estimates}


_MEASURES: dict[str, Callable[[Row], float | None]] = {
    "accuracy": lambda row: row["value"],
    "thinking": lambda row: row["tokens"]["thinking"],
    "answer": lambda row: row["tokens"]["answer"],
    "well_formed": lambda row: row["well_formed"],
}
_SHARES = ("accuracy", "well_formed")
"""The measures that are 0 or 1 in a sample; the others are tokens."""


def curve(rows: Rows) -> list[CurvePoint]:
    """One point a budget, the smallest first, no limit last.

    Growth and ratio compare with no limit, or with the largest budget where that was not run.
    Samples that failed (value None) count in nothing. Raises: UserError where two budgets share no
    question, or there is no row.
    """
    order = _ordered(rows)
    kept = {budget: [row for row in rows[budget] if row["value"] is not None] for budget in order}
    empty = [budget for budget in order if not kept[budget]]
    if not order or empty:
        raise UserError(
            f"budget curve: no scored sample at budget {empty[0] if empty else '(any)'}"
        )
    reference = kept[order[-1]]
    return [_point(budget, kept[budget], reference) for budget in order]


def _point(budget: int | None, rows: Sequence[Row], reference: Sequence[Row]) -> CurvePoint:
    groups = [problem_of(row) for row in rows]
    means = {
        name: mean_interval([float(read(row) or 0) for row in rows], groups)
        for name, read in _MEASURES.items()
    }
    known = [row for row in rows if row.get("adheres") is not None]
    adherence = mean_interval(
        [float(row["adheres"]) for row in known], [problem_of(r) for r in known]
    )
    here, there = _by_question(rows, "answer"), _by_question(reference, "answer")
    shared = [question for question in here if question in there]
    if not shared:
        raise UserError(
            f"budget curve: budget {budget} and the reference share no question; evaluate the same ones"
        )
    before, after = [there[q] for q in shared], [here[q] for q in shared]
    problems = _problems(rows)
    asked = [problems[q] for q in shared]
    return CurvePoint(
        budget=budget,
        questions=len(problems),
        adherence=adherence,
        growth=paired_interval(before, after, asked),
        ratio=ratio_interval(before, after, asked),
        **means,
    )


def _problems(rows: Sequence[Row]) -> dict[str, str]:
    """Question -> its problem."""
    return {str(row["id"]): problem_of(row) for row in rows}


def _by_question(rows: Sequence[Row], measure: str) -> dict[str, float]:
    """Question -> mean of a measure over its samples that did not fail."""
    read = _MEASURES[measure]
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["value"] is not None:
            values.setdefault(str(row["id"]), []).append(float(read(row) or 0))
    return {question: sum(found) / len(found) for question, found in values.items()}


@dataclass(frozen=True)
class ContrastPoint:
    """One model against another at one budget: after - before, paired by question, 95% intervals
    clustered by problem.

    accuracy, well_formed: shares. thinking, answer: tokens. growth: how many tokens more the answer
    of `after` grows, against its own answers without a limit, than that of `before` (a difference of
    differences, on the same questions).
    """

    budget: int | None
    questions: int
    accuracy: Estimate
    thinking: Estimate
    answer: Estimate
    well_formed: Estimate
    growth: Estimate

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        estimates = {name: _json(getattr(self, name)) for name in (*_MEASURES, "growth")}
        return {"budget": self.budget, "questions": self.questions, **estimates}


def contrast(before: Rows, after: Rows) -> list[ContrastPoint]:
    """One point for each budget that both models were run at, the smallest first, no limit last.

    Samples that failed count in nothing, and a question counts where both models have it (growth:
    at the largest budget too). Raises: UserError where the models share no budget or no question.
    """
    shared = [budget for budget in _ordered(before) if budget in after]
    if not shared:
        raise UserError("budget contrast: the two models share no budget; evaluate the same ones")
    free = shared[-1]
    return [_contrast_point(budget, before, after, free) for budget in shared]


def _contrast_point(
    budget: int | None, before: Rows, after: Rows, free: int | None
) -> ContrastPoint:
    measured = {}
    problems = _problems([*before[budget], *after[budget]])
    for name in _MEASURES:
        here, there = _by_question(before[budget], name), _by_question(after[budget], name)
        shared = [question for question in here if question in there]
        if not shared:
            raise UserError(f"budget contrast: at budget {budget} the models share no question")
        pairs = [(here[q], there[q]) for q in shared]
        asked = [problems[q] for q in shared]
        measured[name] = (
            paired_interval([a for a, _ in pairs], [b for _, b in pairs], asked)
            if name in _SHARES
            else _difference(pairs, asked)
        )
    grown = [_growths(rows[budget], rows[free]) for rows in (before, after)]
    both = [q for q in grown[0] if q in grown[1]]
    growth = _difference([(grown[0][q], grown[1][q]) for q in both], [problems[q] for q in both])
    return ContrastPoint(budget, measured["accuracy"].n, growth=growth, **measured)


def _difference(pairs: Sequence[tuple[float, float]], problems: Sequence[str]) -> Estimate:
    return mean_interval_normal([after - before for before, after in pairs], problems)


def _growths(rows: Sequence[Row], free: Sequence[Row]) -> dict[str, float]:
    """Question -> how many tokens its answer is longer than without a limit."""
    here, there = _by_question(rows, "answer"), _by_question(free, "answer")
    return {question: here[question] - there[question] for question in here if question in there}


def _ordered(rows: Rows) -> list[int | None]:
    return sorted(rows, key=lambda budget: math.inf if budget is None else budget)


def ratio_interval(
    before: Sequence[float], after: Sequence[float], groups: Sequence[str] | None = None
) -> Estimate:
    """mean(after) / mean(before) of paired values, 95% interval by the delta method.

    The residuals after - ratio * before, over the mean of before, have the ratio's standard error,
    clustered by `groups`.
    """
    x, y = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    n = len(x)
    if n == 0 or x.mean() == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, n)
    ratio = float(y.mean() / x.mean())
    spread = (y - ratio * x) / x.mean()
    # The residuals' mean is 0, so theirs is the clustered error of a mean.
    stderr = mean_interval(spread.tolist(), groups).stderr
    return Estimate(ratio, stderr, ratio - _Z * stderr, ratio + _Z * stderr, n)


def _json(estimate: Estimate) -> dict[str, Any]:
    def shown(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "value": shown(estimate.value),
        "stderr": shown(estimate.stderr),
        "ci95": [shown(estimate.low), shown(estimate.high)],
        "n": estimate.n,
    }
