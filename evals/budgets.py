"""The budget curves of everything that was evaluated so far, for the report."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from budget.curves import CurvePoint, contrast, curve
from evals.store import Row
from workbench.rundir import read_json_lines

FILE = "budget_curves.json"
CONTRASTS = "budget_contrasts.json"

Budgets = dict[int | None, list[Row]]
"""Budget -> its rows."""


class Pair(NamedTuple):
    """Two models that are set against each other on a benchmark: after - before."""

    benchmark: str
    before: str
    after: str


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair once; of one in both orders the later counts."""
    return list({(p.benchmark, frozenset((p.before, p.after))): p for p in pairs}.values())


def budget_curves(out: Path) -> list[dict[str, Any]]:
    """[{model, benchmark, points}] of every pair in `out` that was run under a budget.

    Reasoning off (budget 0) is another prompt and no point of a curve. A budget without one scored
    sample is left out.
    """
    return [
        {
            "model": model,
            "benchmark": benchmark,
            "points": [point.as_dict() for point in _curve(budgets)],
        }
        for (model, benchmark), budgets in _read(out).items()
    ]


def budget_contrasts(
    out: Path, models: Sequence[str], more: Sequence[Pair] = ()
) -> list[dict[str, Any]]:
    """[{benchmark, before, after, points}] for each pair of models, in their order, on each benchmark,
    and for further pairs.

    Points are those of `budget.curves.contrast`: after - before, paired by question.
    """
    found = _read(out)
    pairs = [
        Pair(benchmark, before, after)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in found)
        for before, after in combinations(models, 2)
    ]
    contrasts = []
    for pair in unique([*more, *pairs]):
        sides = [found.get((model, pair.benchmark), {}) for model in (pair.before, pair.after)]
        if set(sides[0]) & set(sides[1]):
            points = [point.as_dict() for point in contrast(*sides)]
            contrasts.append({**pair._asdict(), "points": points})
    return contrasts


def _read(out: Path) -> dict[tuple[str, str], Budgets]:
    """(model, benchmark) -> its rows by budget, where there is a budget besides no limit."""
    rows: dict[tuple[str, str], Budgets] = {}
    for path in sorted(out.glob("*/*/results.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found = list(read_json_lines(path.parent / "samples.jsonl"))
        if result["budget"] != 0 and any(row.get("value") is not None for row in found):
            pair = path.parents[1].name, str(result["benchmark"])
            rows.setdefault(pair, {})[result["budget"]] = found
    return {pair: budgets for pair, budgets in rows.items() if set(budgets) != {None}}


def _curve(budgets: Mapping[int | None, list[Row]]) -> list[CurvePoint]:
    """The curve on the questions that every budget has: a larger limit of one run changes nothing."""
    ids = [{row["id"] for row in rows if row["value"] is not None} for rows in budgets.values()]
    shared = set.intersection(*ids)
    if not shared:
        return []
    return curve({b: [r for r in rows if r["id"] in shared] for b, rows in budgets.items()})
