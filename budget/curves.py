"""What a thinking budget bought: accuracy, lengths, adherence and form against the budget.

Paper, figure 5: without truncated traces in training the answer grows as the budget shrinks
(compensation) and replies lose their form; with them both stay flat.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from workbench.errors import UserError
from workbench.records import (
    RESULT,
    UNKNOWN,
    Estimate,
    Questions,
    Sample,
    questions_of,
    read_result,
    read_samples,
)
from workbench.statistics import (
    asks_of,
    mean_interval,
    mean_interval_normal,
    paired_interval,
    ratio_interval,
)

Budgets = Mapping[int | None, Sequence[Sample]]
"""Budget (None: no limit) -> the samples."""
CURVES, CONTRASTS = "budget_curves.json", "budget_contrasts.json"

_MEASURES: dict[str, Callable[[Sample], float | None]] = {
    "accuracy": lambda sample: sample.value,
    "thinking": lambda sample: sample.tokens.thinking,
    "answer": lambda sample: sample.tokens.answer,
    "well_formed": lambda sample: sample.well_formed,
}
_SHARES = ("accuracy", "well_formed")
"""The measures that are 0 or 1 in a sample; the others are tokens."""


@dataclass(frozen=True)
class CurvePoint:
    """One model, or the difference of two, at one budget (None: no limit); 95% intervals by question.

    accuracy: over scored samples. thinking, answer: tokens. well_formed: share of replies with exactly
    one `</think>`. growth: how many tokens the answer is longer than without a limit, on the same
    questions. Of one model alone: adherence, the share of traces within budget, grace and closing tag
    (NaN without a budget), and ratio, the answer's mean length over that without a limit; above 1 is
    compensation.
    """

    budget: int | None
    questions: int
    accuracy: Estimate
    thinking: Estimate
    answer: Estimate
    well_formed: Estimate
    growth: Estimate
    adherence: Estimate = UNKNOWN
    ratio: Estimate = UNKNOWN


@dataclass(frozen=True)
class Curve:
    """A model's points on a benchmark, budgets rising, no limit last. against: the model that was
    subtracted, question by question; "" where the values are the model's own."""

    benchmark: str
    model: str
    points: list[CurvePoint]
    against: str = ""


class ModelPair(NamedTuple):
    """Two models on a benchmark: what `model` is more than `against`."""

    benchmark: str
    against: str
    model: str


def unique(pairs: Iterable[ModelPair]) -> list[ModelPair]:
    """Each pair once; of one in both orders the later counts."""
    return list({(p.benchmark, frozenset(p[1:])): p for p in pairs}.values())


def budget_curves(out: Path) -> list[Curve]:
    """The curve of every model and benchmark under `out` that was run under a budget.

    Reasoning off (budget 0) is another prompt and no point of a curve. A budget without one scored
    sample is left out. A curve is of the questions that every budget has: a larger limit of one run
    changes nothing.
    """
    curves = []
    for (model, benchmark), budgets in _read(out).items():
        shared = set.intersection(*(set(questions_of(own)) for own in budgets.values()))
        kept = {b: [s for s in own if s.id in shared] for b, own in budgets.items()}
        curves.append(Curve(benchmark, model, curve(kept) if shared else []))
    return curves


def budget_contrasts(
    out: Path, models: Sequence[str], more: Sequence[ModelPair] = ()
) -> list[Curve]:
    """The difference of each pair of models, in their order, on each benchmark, and of further pairs."""
    found = _read(out)
    pairs = [
        ModelPair(benchmark, before, after)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in found)
        for before, after in combinations(models, 2)
    ]
    contrasts = []
    for pair in unique([*more, *pairs]):
        before, after = (found.get((m, pair.benchmark), {}) for m in (pair.against, pair.model))
        if set(before) & set(after):
            contrasts.append(
                Curve(pair.benchmark, pair.model, contrast(before, after), pair.against)
            )
    return contrasts


def _read(out: Path) -> dict[tuple[str, str], dict[int | None, list[Sample]]]:
    """(model, benchmark) -> its samples by budget, where there is a budget besides no limit."""
    found: dict[tuple[str, str], dict[int | None, list[Sample]]] = {}
    for path in sorted(out.glob(f"*/*/{RESULT}")):
        result = read_result(path)
        samples = list(read_samples(path.parent))
        if result.budget != 0 and questions_of(samples):
            pair = path.parents[1].name, result.benchmark
            found.setdefault(pair, {})[result.budget] = samples
    return {pair: budgets for pair, budgets in found.items() if set(budgets) != {None}}


def curve(budgets: Budgets) -> list[CurvePoint]:
    """One point a budget, the smallest first, no limit last.

    Growth and ratio compare with no limit, or with the largest budget where that was not run.
    Samples that failed (value None) count in nothing. Raises: UserError where two budgets share no
    question, or there is no scored sample.
    """
    order = _ordered(budgets)
    kept = {budget: [s for s in budgets[budget] if s.value is not None] for budget in order}
    empty = [budget for budget in order if not kept[budget]]
    if not order or empty:
        raise UserError(
            f"budget curve: no scored sample at budget {empty[0] if empty else '(any)'}"
        )
    free = questions_of(kept[order[-1]])
    return [_point(budget, kept[budget], free) for budget in order]


def _point(budget: int | None, samples: Sequence[Sample], free: Questions) -> CurvePoint:
    asks = [sample.asks for sample in samples]
    means = {
        name: mean_interval([float(measure(sample) or 0) for sample in samples], asks)
        for name, measure in _MEASURES.items()
    }
    known = [sample for sample in samples if sample.adheres is not None]
    here = questions_of(samples)
    shared = [question for question in here if question in free]
    if not shared:
        raise UserError(
            f"budget curve: budget {budget} and the reference share no question; evaluate the same ones"
        )
    answer = _MEASURES["answer"]
    before, after = ([side[q].mean(answer) for q in shared] for side in (free, here))
    groups = [here[question].asks for question in shared]
    return CurvePoint(
        budget=budget,
        questions=len(here),
        adherence=mean_interval([float(s.adheres or 0) for s in known], [s.asks for s in known]),
        growth=paired_interval(before, after, groups),
        ratio=ratio_interval(before, after, groups),
        **means,
    )


def contrast(before: Budgets, after: Budgets) -> list[CurvePoint]:
    """after - before at each budget that both models were run at, the smallest first, no limit last.

    Samples that failed count in nothing, and a question counts where both models have it (growth:
    at the largest budget too). Raises: UserError where the models share no budget or no question.
    """
    shared = [budget for budget in _ordered(before) if budget in after]
    if not shared:
        raise UserError("budget contrast: the two models share no budget; evaluate the same ones")
    sides = [{b: questions_of(side[b]) for b in shared} for side in (before, after)]
    free = [side[shared[-1]] for side in sides]
    return [_contrast_point(budget, [s[budget] for s in sides], free) for budget in shared]


def _contrast_point(
    budget: int | None, sides: Sequence[Questions], free: Sequence[Questions]
) -> CurvePoint:
    old, new = sides
    shared = [question for question in old if question in new]
    if not shared:
        raise UserError(f"budget contrast: at budget {budget} the models share no question")
    asks = dict(zip(shared, asks_of(shared, old, new), strict=True))
    measured = {}
    for name, measure in _MEASURES.items():
        before, after = ([side[q].mean(measure) for q in shared] for side in sides)
        found = paired_interval if name in _SHARES else _paired_normal
        measured[name] = found(before, after, list(asks.values()))
    grown = [dict(_growths(side, own)) for side, own in zip(sides, free, strict=True)]
    both = [question for question in grown[0] if question in grown[1]]
    before, after = ([side[question] for question in both] for side in grown)
    growth = _paired_normal(before, after, [asks[question] for question in both])
    return CurvePoint(budget, len(shared), growth=growth, **measured)


def _paired_normal(
    before: Sequence[float], after: Sequence[float], groups: Sequence[str]
) -> Estimate:
    return mean_interval_normal([b - a for a, b in zip(before, after, strict=True)], groups)


def _growths(here: Questions, free: Questions) -> Iterator[tuple[str, float]]:
    """Each question, and how many tokens its answer is longer than without a limit."""
    answer = _MEASURES["answer"]
    return ((q, here[q].mean(answer) - free[q].mean(answer)) for q in here if q in free)


def _ordered(budgets: Budgets) -> list[int | None]:
    return sorted(budgets, key=lambda budget: math.inf if budget is None else budget)
