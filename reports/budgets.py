"""What a thinking budget bought, by benchmark and model: pictures and tables of the report.

The curves are those that a sweep wrote (budget.curves has their meaning).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from budget.curves import Curve, CurvePoint
from reports.charts import with_intervals
from reports.details import Grid
from reports.differences import label
from reports.page import compact, percent
from reports.read import RunFacts, ordered
from reports.svg import Chart, Panel
from workbench.errors import UserError
from workbench.records import Difference, Estimate

_PERCENT, _POINTS, _TOKENS, _MORE = "{:.1%}", "{:+.1f}", "{:.1f}", "{:+.1f}"
_OF_A_PAIR = {
    "accuracy, points": ("accuracy", _POINTS, 100),
    "well-formed, points": ("well_formed", _POINTS, 100),
    "answer, tokens": ("answer", _MORE, 1),
    "answer's growth, tokens": ("growth", _MORE, 1),
}
_OF_A_MODEL = {
    "accuracy": ("accuracy", _PERCENT, 1),
    "well-formed": ("well_formed", _PERCENT, 1),
    "answer, tokens": ("answer", _TOKENS, 1),
    "thinking, tokens": ("thinking", _TOKENS, 1),
    "budget kept": ("adherence", _PERCENT, 1),
}


@dataclass(frozen=True)
class CurveField:
    """One picture: a field of a point, its title, and how its values are written."""

    key: str
    title: str
    y_range: tuple[float, float] | None
    y_format: Callable[[float], str]


def _times(value: float) -> str:
    return f"{value:.2g}×"


MEASURES: tuple[CurveField, ...] = (
    CurveField("accuracy", "Accuracy", (0.0, 1.0), percent),
    CurveField("answer", "Answer, tokens", None, compact),
    CurveField("well_formed", "Well-formed", (0.0, 1.0), percent),
    CurveField("thinking", "Thinking, tokens", None, compact),
    CurveField("ratio", "Answer against no limit", None, _times),
    CurveField("adherence", "Budget kept", (0.0, 1.0), percent),
)


@dataclass(frozen=True)
class BudgetRow:
    """The pictures of one benchmark; model -> its points, budgets rising, no limit last."""

    benchmark: str
    curves: dict[str, list[CurvePoint]]
    panels: list[Panel]

    @property
    def n(self) -> str:
        """Questions behind a model's points; of each model where they differ."""
        counts = {m: min(p.questions for p in points) for m, points in self.curves.items()}
        if len(set(counts.values())) == 1:
            return f"{next(iter(counts.values())):,}"
        return ", ".join(f"{n:,} ({model})" for model, n in counts.items())


def budget_rows(facts: RunFacts) -> list[BudgetRow]:
    """A row of pictures for each benchmark that was run under a budget."""
    found: dict[str, dict[str, list[CurvePoint]]] = {}
    for curve in facts.curves:
        if curve.points and curve.model in facts.models:
            found.setdefault(curve.benchmark, {})[curve.model] = curve.points
    rows = []
    for benchmark in ordered(found, facts.benchmarks):
        curves = {m: found[benchmark][m] for m in facts.models if m in found[benchmark]}
        panels = [_panel(facts, curves, measure) for measure in MEASURES]
        rows.append(BudgetRow(label(benchmark), curves, panels))
    return rows


def must_have_budgets(facts: RunFacts) -> list[BudgetRow]:
    """The rows. Raises: UserError where no model of the run was evaluated under a thinking budget."""
    rows = budget_rows(facts)
    if not rows:
        raise UserError(f"no model of run {facts.name!r} was evaluated under a thinking budget")
    return rows


def _panel(facts: RunFacts, curves: dict[str, list[CurvePoint]], measure: CurveField) -> Panel:
    budgets = {point.budget for points in curves.values() for point in points}
    # Traces that nothing limits stand one place right of the largest budget.
    order = sorted(budgets, key=lambda budget: math.inf if budget is None else budget)
    series = []
    for model, points in curves.items():
        values = {float(order.index(p.budget)): getattr(p, measure.key) for p in points}
        line = with_intervals(model, values, f"--m{facts.models.index(model)}")
        series += [line] if line.points else []
    chart = Chart(
        measure.title,
        series,
        "thinking budget, tokens",
        [_budget(budget) for budget in order],
        measure.y_range,
        measure.y_format,
    )
    return Panel(measure.title, chart, wide=(310, 190), narrow=(160, 132))


def _budget(budget: int | None) -> str:
    return "∞" if budget is None else str(budget)


def contrast_grids(facts: RunFacts) -> list[Grid]:
    """For each benchmark and pair of models a table: their difference at each budget, with intervals."""
    return [
        Grid(
            f"{label(found.benchmark)}: {found.model} minus {found.against}",
            ["budget", *_OF_A_PAIR, "questions"],
            [
                [_budget(p.budget), *_cells(p, _OF_A_PAIR.values()), str(p.questions)]
                for p in found.points
            ],
        )
        for found in facts.contrasts
    ]


def budget_differences(facts: RunFacts) -> list[tuple[str, Difference]]:
    """(model, its difference from the one beside it) at the smallest budget of each benchmark: accuracy, the share
    of well-formed replies and the answer's tokens."""
    points = {(c.benchmark, c.model, p.budget): p for c in facts.curves for p in c.points}
    found = []
    for pair in facts.contrasts:
        limited = [p for p in pair.points if p.budget is not None]
        if not limited:
            continue
        least = min(limited, key=lambda point: point.budget or 0)
        sides = [points.get((pair.benchmark, m, least.budget)) for m in (pair.against, pair.model)]
        if sides[0] is not None and sides[1] is not None:
            found += [(pair.model, d) for d in _differences(pair, least, sides[0], sides[1])]
    return found


def _differences(
    pair: Curve, point: CurvePoint, before: CurvePoint, after: CurvePoint
) -> Iterator[Difference]:
    for key, words in (
        ("accuracy", "accuracy"), ("well_formed", "well-formed"), ("answer", "answer, tokens"),
    ):  # fmt: skip
        yield Difference(
            getattr(before, key), getattr(after, key), getattr(point, key),
            what=f"{label(pair.benchmark)} at budget {point.budget}: {words}",
            against=pair.against, share=key != "answer",
        )  # fmt: skip


def value_grids(facts: RunFacts) -> list[Grid]:
    """For each benchmark a table of every model's values at each budget, with 95% intervals."""
    return [
        Grid(
            f"{row.benchmark} (n = {row.n})",
            ["model", "budget", *_OF_A_MODEL],
            [
                [model, _budget(point.budget), *_cells(point, _OF_A_MODEL.values())]
                for model, points in row.curves.items()
                for point in points
            ],
        )
        for row in must_have_budgets(facts)
    ]


def budget_markdown(facts: RunFacts) -> str:
    """All tables as Markdown. Raises: UserError where nothing was evaluated under a budget."""
    return "\n\n".join(map(_markdown, [*value_grids(facts), *contrast_grids(facts)])) + "\n"


def _markdown(grid: Grid) -> str:
    lines = [grid.head, ["---"] * len(grid.head), *grid.rows]
    return "\n".join([f"**{grid.title}**", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def _cells(point: CurvePoint, columns: Iterable[tuple[str, str, int]]) -> Sequence[str]:
    return [_shown(getattr(point, key), style, scale) for key, style, scale in columns]


def _shown(estimate: Estimate, style: str, scale: int) -> str:
    """`0.5 (0.4 to 0.6)`; a dash where there is nothing to estimate."""
    if math.isnan(estimate.value):
        return "–"
    value = style.format(scale * estimate.value)
    low, high = (style.format(scale * end) for end in estimate.ci95)
    return value if math.isnan(estimate.low) else f"{value} ({low} to {high})"
