"""What the table of a sweep shows: numbers with intervals, the paper's beside them, departures."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.registry import benchmark
from workbench.errors import UserError


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


@dataclass(frozen=True)
class TableRow:
    """One benchmark at one budget: cells by model, the paper's figures by its models."""

    name: str
    about: str
    metric: str
    cells: dict[str, Cell]
    paper: dict[str, float]
    departures: list[str]


@dataclass(frozen=True)
class SweepTable:
    """rows in the registry's order; models in the order of their folders."""

    models: list[str]
    paper_models: list[str]
    rows: list[TableRow]
    comparisons: list[dict[str, Any]] = field(default_factory=list)


def read_table(folder: Path) -> SweepTable:
    """Everything under a run's evals folder that has a result."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*/results.json")):
        data = _json(path)
        if data:
            results.setdefault(path.parent.name, {})[path.parents[1].name] = data
    models = list(dict.fromkeys(m for found in results.values() for m in found))
    rows = [_row(name, found) for name, found in results.items()]
    paper = list(dict.fromkeys(model for row in rows for model in row.paper))
    compared = _json(folder / "comparisons.json")
    return SweepTable(models, paper, rows, compared if isinstance(compared, list) else [])


def _row(folder: str, found: dict[str, dict[str, Any]]) -> TableRow:
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
        cells={model: _cell(model, folder, data, metric) for model, data in found.items()},
        paper=dict(known.paper) if known is not None and own_mode else {},
        departures=departures(first, known) if known is not None else [],
    )


def _cell(model: str, folder: str, data: dict[str, Any], metric: str) -> Cell:
    value, low, high = _percent(data["metrics"].get(metric, {}))
    notes = []
    for key, words in (("truncated", "cut"), ("failed", "failed")):
        if data.get(key):
            notes.append(f"{data[key]} {words}")
    shown = round(100 * data["well_formed_rate"])
    if shown < 100:
        notes.append(f"{shown}% well-formed")
    samples = data["num_samples"]
    n = f"n = {data['n']}" + (f" x {samples}" if samples > 1 else "")
    parts = [(name, *_percent(found)) for name, found in data["metrics"].items()]
    return Cell(value, low, high, n, notes, f"{model}/{folder}/index.html", parts)


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
