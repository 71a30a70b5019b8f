"""The table of an ablation: every arm less the first, paired by question, clustered by seed and problem."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.statistics import holm
from workbench.records import UNKNOWN, Estimate, ModelDifference
from workbench.statistics import two_way_interval

# (seed, question) -> (value, what the question asks)
Scores = Mapping[tuple[int, str], tuple[float, str]]


@dataclass(frozen=True)
class Measure:
    """One thing that is measured. better: whether more is better. scores: arm -> its values."""

    name: str
    unit: str
    share: bool
    more_is_better: bool
    scores: Mapping[str, Scores]
    base: Estimate = UNKNOWN
    failed: int = 0


def compare(measures: Sequence[Measure], arms: Sequence[str]) -> list[ModelDifference]:
    """Each arm less the first on each measure; p-values adjusted for all of them together (Holm)."""
    found: list[ModelDifference] = []
    for measure in measures:
        for arm in arms[1:]:
            found.append(_difference(measure, arms[0], arm))
    adjusted = holm([one.p for one in found])
    return [
        ModelDifference(**{**vars(one), "p_holm": p, "note": verdict(one, p)})
        for one, p in zip(found, adjusted, strict=True)
    ]


def _difference(measure: Measure, first: str, arm: str) -> ModelDifference:
    before, after = measure.scores[first], measure.scores[arm]
    shared = [key for key in before if key in after]
    seeds = [str(seed) for seed, _ in shared]
    problems = [before[key][1] for key in shared]
    sides = [[side[key][0] for key in shared] for side in (before, after)]
    change = [b - a for a, b in zip(*sides, strict=True)]
    difference, p = two_way_interval(change, seeds, problems)
    levels = [two_way_interval(side, seeds, problems)[0] for side in sides]
    return ModelDifference(
        levels[0], levels[1], difference, what=measure.name, against=first, unit=measure.unit,
        share=measure.share, problems=len(set(problems)), p=p,
        failed=len(before) + len(after) - 2 * len(shared),
        method="paired by question, clustered by seed and problem, Student's t",
        benchmark=measure.name, model=arm,
    )  # fmt: skip


def verdict(found: ModelDifference, p_holm: float) -> str:
    """What the row says, a non-effect as one."""
    if math.isnan(p_holm):
        return "one seed or one question: nothing can be said"
    if p_holm < 0.05:
        return f"differs (p {p_holm:.2g} after Holm)"
    width = (found.difference.high - found.difference.low) / 2
    shown = f"{100 * width:.1f} points" if found.share else f"{width:.3f}"
    return f"no effect shown (p {p_holm:.2g} after Holm; one under {shown} would not show)"


def markdown(
    name: str, measures: Sequence[Measure], found: Sequence[ModelDifference],
    tokens: Mapping[str, Mapping[str, float]], seeds: int,
) -> str:  # fmt: skip
    """The tables as text: levels and differences, then tokens by source."""
    lines = [
        f"# {name}", "",
        f"{seeds} seeds an arm; 95% intervals, paired by question and clustered by seed and problem "
        "(Student's t by the fewer of the two); p after Holm over all rows.", "",
        "| measure | arm | base | first arm | this arm | difference | 95% | p (Holm) | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    bases = {measure.name: measure for measure in measures}
    for one in found:
        measure = bases[one.benchmark]
        shown = [
            _number(v, measure.share)
            for v in (measure.base.value, one.before.value, one.after.value)
        ]
        change = [
            _number(v, measure.share, sign=True)
            for v in (one.difference.value, *one.difference.ci95)
        ]
        lines.append(
            f"| {one.benchmark} | {one.model} - {one.against} | {shown[0]} | {shown[1]} | {shown[2]} "
            f"| {change[0]} | {change[1]} to {change[2]} | {one.p_holm:.2g} | {one.note} |"
        )
    names = list(dict.fromkeys(source for own in tokens.values() for source in own))
    lines += [
        "",
        "Tokens seen by source, mean over seeds:",
        "",
        f"| arm | {' | '.join(names)} | all |",
    ]
    lines.append(f"| --- | {' | '.join('---' for _ in names)} | --- |")
    for arm, own in tokens.items():
        cells = " | ".join(f"{own.get(source, 0):,.0f}" for source in names)
        lines.append(f"| {arm} | {cells} | {sum(own.values()):,.0f} |")
    return "\n".join(lines) + "\n"


def _number(value: float, share: bool, *, sign: bool = False) -> str:
    if math.isnan(value):
        return "-"
    # Nothing is written as -0.
    shown = round(100 * value, 1) + 0.0 if share else round(value, 3) + 0.0
    plus = "+" if sign else ""
    return f"{shown:{plus}.1f}%" if share else f"{shown:{plus}.3f}"
