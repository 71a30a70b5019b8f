"""What a thinking budget bought, by benchmark and model: panels of the report, and one PNG.

The curves are those that a sweep wrote to evals/budget_curves.json (budget.curves has the meaning).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.report.compare import label
from workbench.report.palette import ramp
from workbench.report.panel import Panel
from workbench.report.read import RunFacts, read_run
from workbench.report.svg import Chart, Series, both_sizes, compact, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _PHONE_SIZE = (310, 190), (160, 132)
# Traces that nothing limits stand one place right of the largest budget.
_UNLIMITED = "∞"
_INK, _MUTED, _GRID = "#1d2129", "#5d6675", "#e4e1dc"

Point = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One picture: a key of a point, its title, and how its values are written."""

    key: str
    title: str
    y_range: tuple[float, float] | None
    y_format: Callable[[float], str]


def _times(value: float) -> str:
    return f"{value:.2g}×"


MEASURES: tuple[Measure, ...] = (
    Measure("accuracy", "Accuracy", (0.0, 1.0), percent),
    Measure("answer", "Answer, tokens", None, compact),
    Measure("well_formed", "Well-formed", (0.0, 1.0), percent),
    Measure("thinking", "Thinking, tokens", None, compact),
    Measure("ratio", "Answer against no limit", None, _times),
    Measure("adherence", "Budget kept", (0.0, 1.0), percent),
)


@dataclass(frozen=True)
class BudgetRow:
    """The pictures of one benchmark; model -> its points, budgets rising, no limit last."""

    benchmark: str
    curves: dict[str, list[Point]]
    panels: list[Panel]

    @property
    def models(self) -> list[str]:
        """Models in the report's order."""
        return list(self.curves)

    @property
    def n(self) -> str:
        """Questions behind a model's points; of each model where they differ."""
        counts = {m: min(p["questions"] for p in points) for m, points in self.curves.items()}
        if len(set(counts.values())) == 1:
            return f"{next(iter(counts.values())):,}"
        return ", ".join(f"{n:,} ({model})" for model, n in counts.items())


def budget_rows(facts: RunFacts) -> list[BudgetRow]:
    """A row of pictures for each benchmark that was run under a budget."""
    found: dict[str, dict[str, list[Point]]] = {}
    for curve in _read(facts.root / "evals" / "budget_curves.json", facts.problems):
        known = curve["model"] in facts.models
        if curve["points"] and known and not is_stale(facts, curve["model"], curve["benchmark"]):
            found.setdefault(str(curve["benchmark"]), {})[curve["model"]] = curve["points"]
    rank = {name: place for place, name in enumerate(facts.benchmarks)}
    rows = []
    for benchmark in sorted(found, key=lambda name: rank.get(name, len(rank))):
        curves = {m: found[benchmark][m] for m in facts.models if m in found[benchmark]}
        panels = [_panel(facts, curves, measure) for measure in MEASURES]
        rows.append(BudgetRow(label(benchmark), curves, panels))
    return rows


def is_stale(facts: RunFacts, model: str, benchmark: str) -> bool:
    """Whether any of a model's results on a benchmark is of an earlier checkpoint: then its curve is
    of two models."""
    return any(
        result.stale and result.model == model and result.benchmark == benchmark
        for result in facts.results.values()
    )


def _read(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return [c for c in value if {"model", "benchmark", "points"} <= c.keys()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problems.append(f"{path}: cannot be read ({error})")
        return []


def _places(curves: dict[str, list[Point]]) -> dict[int | None, float]:
    """Budget -> its place from left to right."""
    budgets = {point["budget"] for points in curves.values() for point in points}
    order: list[int | None] = [*sorted(b for b in budgets if b is not None)]
    order += [None] if None in budgets else []
    return {budget: float(place) for place, budget in enumerate(order)}


def _names(places: dict[int | None, float]) -> list[str]:
    return [_UNLIMITED if budget is None else str(budget) for budget in places]


def _line(
    points: list[Point], key: str, places: dict[int | None, float]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(place, value) and (low, high) of the points that have a value."""
    known = [p for p in points if p[key]["value"] is not None]
    values = [(places[p["budget"]], float(p[key]["value"])) for p in known]
    errors = []
    for point in known:
        low, high = point[key]["ci95"]
        value = point[key]["value"]
        errors.append((value if low is None else low, value if high is None else high))
    return values, errors


def _panel(facts: RunFacts, curves: dict[str, list[Point]], measure: Measure) -> Panel:
    places = _places(curves)
    series = []
    for model, points in curves.items():
        values, errors = _line(points, measure.key, places)
        if values:
            colour = f"--m{facts.models.index(model)}"
            series.append(Series(model, values, colour, errors, "points"))
    chart = Chart(
        measure.title,
        series,
        "thinking budget, tokens",
        _names(places),
        measure.y_range,
        measure.y_format,
    )
    return Panel(measure.title, both_sizes(chart, _SIZE, _PHONE_SIZE))


def save_budget_png(run: Path, path: Path) -> None:
    """Write the budget curves of the run in folder `run`: a line of pictures a benchmark.

    Raises: UserError where no model of the run was evaluated under a budget.
    """
    # A second to import, and no screen: only where a PNG is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    facts = read_run(run)
    rows = budget_rows(facts)
    if not rows:
        raise UserError(f"no model of run {facts.name!r} was evaluated under a thinking budget")
    shown = MEASURES[:3]
    figure = Figure(figsize=(3.1 * len(shown), 2.3 * len(rows) + 0.5), dpi=130)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.07))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(shown), squeeze=False)
    names = list(dict.fromkeys(model for row in rows for model in row.models))
    colours = dict(zip(names, ramp(len(names)), strict=True))
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, measure in zip(axes_row, shown, strict=True):
            _draw(axes, row, measure, colours)
    handles = [
        grid[0][0].plot([], [], "o-", color=colour, label=name)[0]
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, facecolor="white")


def _draw(axes: "Axes", row: BudgetRow, measure: Measure, colours: dict[str, str]) -> None:
    places = _places(row.curves)
    for model, points in row.curves.items():
        values, errors = _line(points, measure.key, places)
        if not values:
            continue
        xs, ys = zip(*values, strict=True)
        axes.plot(xs, ys, "o-", color=colours[model], ms=4.5, lw=1.6, mec="white", mew=0.8)
        for x, (low, high) in zip(xs, errors, strict=True):
            axes.plot([x, x], [low, high], color=colours[model], lw=2, alpha=0.5)
    title = f"{row.benchmark}: {measure.title.lower()}"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    if measure is MEASURES[0]:  # the row's other titles are too long for it
        axes.set_title(f"n = {row.n}", loc="right", fontsize=8, color=_MUTED)
    axes.set_xticks(list(places.values()), _names(places), fontsize=8.5, color=_MUTED)
    if measure.y_range is not None:
        axes.set_ylim(-0.02, 1.04)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "", "50%", "", "100%"])
    else:
        axes.set_ylim(bottom=0)
    axes.tick_params(length=0, labelcolor=_MUTED, labelsize=8.5)
    axes.set_xlabel("thinking budget, tokens", fontsize=8.5, color=_MUTED)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
