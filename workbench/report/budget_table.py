"""Budgets in figures: each model's values, and one model against another on the same questions."""

import json
from collections.abc import Iterable
from typing import Any

from workbench.errors import UserError
from workbench.report.budgets import budget_rows, is_stale
from workbench.report.compare import label
from workbench.report.details import Grid
from workbench.report.read import RunFacts

_PERCENT, _POINTS, _TOKENS, _MORE = "{:.1%}", "{:+.1f}", "{:.1f}", "{:+.1f}"
Point = dict[str, Any]


def contrast_grids(facts: RunFacts) -> list[Grid]:
    """For each benchmark and pair of models a table: after - before at each budget, with intervals."""
    path = facts.root / "evals" / "budget_contrasts.json"
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [_contrast_grid(one) for one in found if not _stale(facts, one)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        facts.problems.append(f"{path}: cannot be read ({error!r})")
        return []


def _stale(facts: RunFacts, found: dict[str, Any]) -> bool:
    pair = found["before"], found["after"]
    return any(is_stale(facts, model, found["benchmark"]) for model in pair)


def _contrast_grid(found: dict[str, Any]) -> Grid:
    rows = [
        [
            _budget(point),
            _shown(point["accuracy"], _POINTS, 100),
            _shown(point["well_formed"], _POINTS, 100),
            _shown(point["answer"], _MORE),
            _shown(point["growth"], _MORE),
            str(point["questions"]),
        ]
        for point in found["points"]
    ]
    title = f"{label(found['benchmark'])}: {found['after']} minus {found['before']}"
    head = ["budget", "accuracy, points", "well-formed, points", "answer, tokens",
            "answer's growth, tokens", "questions"]  # fmt: skip
    return Grid(title, head, rows)


def value_grids(facts: RunFacts) -> list[Grid]:
    """For each benchmark a table of every model's values at each budget, with 95% intervals."""
    grids = []
    for row in budget_rows(facts):
        rows = [
            [
                model,
                _budget(point),
                _shown(point["accuracy"], _PERCENT),
                _shown(point["well_formed"], _PERCENT),
                _shown(point["answer"], _TOKENS),
                _shown(point["thinking"], _TOKENS),
                _shown(point["adherence"], _PERCENT),
            ]
            for model, points in row.curves.items()
            for point in points
        ]
        head = ["model", "budget", "accuracy", "well-formed", "answer, tokens", "thinking, tokens",
                "budget kept"]  # fmt: skip
        grids.append(Grid(f"{row.benchmark} (n = {row.n})", head, rows))
    return grids


def budget_markdown(facts: RunFacts) -> str:
    """All tables as Markdown. Raises: UserError where nothing was evaluated under a budget."""
    grids = [*value_grids(facts), *contrast_grids(facts)]
    if not grids:
        raise UserError(f"no model of run {facts.name!r} was evaluated under a thinking budget")
    return "\n\n".join(_markdown(grid) for grid in grids) + "\n"


def _markdown(grid: Grid) -> str:
    lines = [grid.head, ["---"] * len(grid.head), *grid.rows]
    return "\n".join([f"**{grid.title}**", "", *map(_line, lines)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _budget(point: Point) -> str:
    return "∞" if point["budget"] is None else str(point["budget"])


def _shown(estimate: dict[str, Any], style: str, scale: float = 1.0) -> str:
    """`0.5 (0.4 to 0.6)`; a dash where there is nothing to estimate."""
    if estimate["value"] is None:
        return "–"
    value = style.format(scale * estimate["value"])
    ends = [None if end is None else style.format(scale * end) for end in estimate["ci95"]]
    return value if None in ends else f"{value} ({ends[0]} to {ends[1]})"
