"""What the table of a sweep shows: numbers with intervals, the paper's beside them, departures."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.registry import benchmark
from workbench.errors import UserError
from workbench.report.checkpoints import Checkpoints
from workbench.rundir import Manifest, RunDir


@dataclass(frozen=True)
class Cell:
    """One model on one benchmark. page: relative address of its samples. Numbers are in percent."""

    value: float | None
    low: float | None
    high: float | None
    n: str
    notes: list[str]
    page: str
    parts: list[tuple[str, float | None, float | None, float | None]]
    """Every metric: (name, value, low, high)."""
    departures: list[str]
    """Where this model's result was not made by the protocol."""


@dataclass(frozen=True)
class TableRow:
    """One benchmark at one budget: cells by model, the paper's figures by its models."""

    name: str
    about: str
    metric: str
    cells: dict[str, Cell]
    paper: dict[str, float]

    @property
    def departures(self) -> list[str]:
        """Where the results were not made by the protocol; with the model's name where they differ."""
        lists = [cell.departures for cell in self.cells.values()]
        if all(found == lists[0] for found in lists):
            return lists[0]
        return [f"{m}: {', '.join(c.departures)}" for m, c in self.cells.items() if c.departures]


@dataclass(frozen=True)
class SweepTable:
    """models and benchmarks in the recipe's order, then by name; a benchmark's budgets by number,
    after no limit."""

    models: list[str]
    paper_models: list[str]
    rows: list[TableRow]
    comparisons: list[dict[str, Any]] = field(default_factory=list)


def read_table(folder: Path) -> SweepTable:
    """Everything under a run's evals folder that has a result."""
    stages = _stages(folder.parent)
    checkpoints = Checkpoints.of(_manifests(RunDir(folder.parent), stages))
    results: dict[str, dict[str, dict[str, Any]]] = {}
    stale: set[tuple[str, str]] = set()
    for path in sorted(folder.glob("*/*/results.json")):
        data, model, name = _json(path), path.parents[1].name, path.parent.name
        if data:
            results.setdefault(name, {})[model] = data
            if checkpoints.is_earlier(model, data):
                stale.add((model, name))
    models = _ordered({m for found in results.values() for m in found}, stages)
    listed = [b for s in stages.values() for b in s.get("benchmarks") or []]
    known = _ordered({str(next(iter(r.values()))["benchmark"]) for r in results.values()}, listed)

    def place(name: str) -> tuple[int, int]:
        first = next(iter(results[name].values()))
        budget = first["budget"]
        return known.index(str(first["benchmark"])), -1 if budget is None else int(budget)

    rows = [_row(name, results[name], stale) for name in sorted(results, key=place)]
    paper = list(dict.fromkeys(model for row in rows for model in row.paper))
    compared = _json(folder / "comparisons.json")
    pairs = compared if isinstance(compared, list) else []
    current = [
        p for p in pairs if not {(p[k], p["benchmark"]) for k in ("before", "after")} & stale
    ]
    return SweepTable(models, paper, rows, current)


def _stages(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of the run's recipe; none where it has none."""
    recipe = _json(root / "recipe.json")
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    return stages if isinstance(stages, dict) else {}


def _manifests(run: RunDir, stages: Iterable[str]) -> Iterator[Manifest]:
    for stage in stages:
        try:
            manifest = run.manifest(stage)
        except UserError:  # unreadable: the report says so
            continue
        if manifest is not None:
            yield manifest


def _ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """Names in the order of `first`; others after them, by name."""
    rank = {name: place for place, name in enumerate(dict.fromkeys(first))}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def _row(folder: str, found: dict[str, dict[str, Any]], stale: set[tuple[str, str]]) -> TableRow:
    first = next(iter(found.values()))
    known = _benchmark(str(first["benchmark"]))
    metric = str(first.get("headline", "accuracy"))
    # The paper's figure belongs beside its own mode: RULER is run with reasoning off, others with.
    own_mode = known is not None and (
        known.harness is not None or known.protocol.thinking == (first["budget"] is None)
    )
    return TableRow(
        name=folder,
        about=known.about if known else "",
        metric=metric,
        cells={
            model: _cell(model, folder, data, known, stale=(model, folder) in stale)
            for model, data in found.items()
        },
        paper=dict(known.paper) if known is not None and own_mode else {},
    )


def _cell(
    model: str, folder: str, data: dict[str, Any], known: Benchmark | None, *, stale: bool
) -> Cell:
    headline = data["metrics"].get(data.get("headline", "accuracy"), {})
    value, low, high = _percent(headline)
    notes = ["of an earlier checkpoint"] if stale else []
    for key, words in (("truncated", "cut"), ("failed", "failed")):
        if data.get(key):
            notes.append(f"{data[key]} {words}")
    well_formed = data["well_formed_rate"]
    if well_formed is not None and (shown := round(100 * well_formed)) < 100:
        notes.append(f"{shown}% well-formed")
    samples = data["num_samples"]
    n = f"n = {data['n']}" + (f" x {samples}" if samples > 1 else "")
    parts = [(name, *_percent(found)) for name, found in data["metrics"].items()]
    departs = departures(data, known) if known is not None else []
    return Cell(value, low, high, n, notes, f"{model}/{folder}/index.html", parts, departs)


def _percent(metric: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    low, high = metric.get("ci95") or (None, None)

    def scaled(value: float | None) -> float | None:
        return None if value is None else 100 * value

    return scaled(metric.get("value")), scaled(low), scaled(high)


def departures(data: dict[str, Any], known: Benchmark) -> list[str]:
    """Where a result was not made by the benchmark's protocol, in words."""
    protocol, sampling = known.protocol, data.get("sampling", {})
    out = []
    if sampling.get("limit"):
        out.append(f"the first {sampling['limit']:,} questions (of each category) only")
    if data["num_samples"] != protocol.samples:
        out.append(f"{data['num_samples']} samples a question, not {protocol.samples}")
    for key, name in (("temperature", "temperature"), ("top_p", "top-p")):
        asked = getattr(protocol, key)
        if key in sampling and sampling[key] != asked:
            out.append(f"{name} {sampling[key]:g}, not {asked:g}")
    if sampling.get("max_tokens", protocol.max_tokens) != protocol.max_tokens:
        out.append(f"at most {sampling['max_tokens']:,} tokens, not {protocol.max_tokens:,}")
    if data.get("judge"):
        out.append(f"judged by {data['judge']}")
    if known.harness is not None:
        return out
    if protocol.thinking != (data["budget"] != 0):
        out.append(f"reasoning {'off' if data['budget'] == 0 else 'on'}")
    elif data["budget"]:
        out.append(f"thinking budget {data['budget']:,}")
    return out


def _benchmark(name: str) -> Benchmark | None:
    try:
        return benchmark(name)
    except UserError:  # a result of another version of the registry is shown all the same
        return None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
