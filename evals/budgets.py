"""The budget curves of everything that was evaluated so far, for the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budget.curves import CurvePoint, curve
from evals.store import Row
from workbench.rundir import read_json_lines

FILE = "budget_curves.json"


def budget_curves(out: Path) -> list[dict[str, Any]]:
    """[{model, benchmark, points}] of every pair in `out` that was run under a budget.

    Reasoning off (budget 0) is another prompt and no point of a curve. A budget without one scored
    sample is left out.
    """
    rows: dict[tuple[str, str], dict[int | None, list[Row]]] = {}
    for path in sorted(out.glob("*/*/results.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found = list(read_json_lines(path.parent / "samples.jsonl"))
        if result["budget"] != 0 and any(row.get("value") is not None for row in found):
            pair = path.parents[1].name, str(result["benchmark"])
            rows.setdefault(pair, {})[result["budget"]] = found
    return [
        {
            "model": model,
            "benchmark": benchmark,
            "points": [point.as_dict() for point in _curve(budgets)],
        }
        for (model, benchmark), budgets in rows.items()
        if set(budgets) != {None}
    ]


def _curve(budgets: Mapping[int | None, list[Row]]) -> list[CurvePoint]:
    """The curve on the questions that every budget has: a larger limit of one run changes nothing."""
    ids = [{row["id"] for row in rows if row["value"] is not None} for rows in budgets.values()]
    shared = set.intersection(*ids)
    if not shared:
        return []
    return curve({b: [r for r in rows if r["id"] in shared] for b, rows in budgets.items()})
