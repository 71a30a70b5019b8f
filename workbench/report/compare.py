"""Numbers of the comparison between models: accuracies, paired gains, means over benchmarks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.report.read import Result, RunFacts
from workbench.statistics import (
    Estimate,
    mean_of_estimates,
    paired_interval,
    problems_of,
    unpaired_interval,
)


@dataclass(frozen=True)
class Gain:
    """A difference between two models on one benchmark (or a mean of such differences).

    paired: over the same questions. Unpaired where the samples are missing. before, after: the
    accuracies of which it is the difference.
    """

    estimate: Estimate
    against: str
    paired: bool = True
    before: float = math.nan
    after: float = math.nan


@dataclass(frozen=True)
class Cell:
    """One model on one benchmark: its accuracy, and its gain over the model it was made from. stale:
    of an earlier checkpoint, and so in no gain and no mean."""

    accuracy: Estimate
    gain: Gain | None = None
    stale: bool = False


@dataclass(frozen=True)
class Table:
    """rows: (label, cells by model). The last row is the mean where there is more than one."""

    models: list[str]
    rows: list[tuple[str, dict[str, Cell]]]

    def mean_row(self) -> tuple[str, dict[str, Cell]] | None:
        """The row that sums up: the mean, or the only benchmark."""
        return self.rows[-1] if self.rows else None

    def current(self) -> "Table":
        """Without the cells of earlier checkpoints."""
        rows = [(name, {m: c for m, c in row.items() if not c.stale}) for name, row in self.rows]
        return Table(self.models, [(name, row) for name, row in rows if row])


def questions(cells: Iterable[Cell]) -> str:
    """The number of questions behind cells, fewest and most where they differ: `60`, `10–60`."""
    counts = sorted({cell.accuracy.n for cell in cells})
    return "–".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))


def label(benchmark: str) -> str:
    """A benchmark's name for people.

    >>> label("mini-tool_calling")
    'tool calling'
    """
    return benchmark.removeprefix("mini-").replace("_", " ")


def gain(before: Result, after: Result) -> Gain:
    """after - before, paired by question id and clustered by problem; unpaired where either has no
    samples."""
    common = [key for key in before.values if key in after.values]
    if common:
        old, new = [before.values[k] for k in common], [after.values[k] for k in common]
        levels = sum(old) / len(old), sum(new) / len(new)
        asked = problems_of(common, before.problems, after.problems)
        return Gain(paired_interval(old, new, asked), before.model, True, *levels)
    first, last = before.estimate, after.estimate
    return Gain(unpaired_interval(first, last), before.model, False, first.value, last.value)


def gain_table(facts: RunFacts, budget: int | None = None) -> Table:
    """Accuracy of every model on every benchmark at one thinking budget, and what each gained.

    A benchmark that was run with reasoning off alone (RULER's protocol) stands beside those without a
    limit, and its name says so.
    """
    rows = []
    for benchmark in facts.benchmarks:
        cells = _cells(facts, benchmark, budget)
        name = label(benchmark)
        if not cells and budget is None:
            cells, name = _cells(facts, benchmark, 0), f"{name} (no thinking)"
        if cells:
            rows.append((name, cells))
    if len(rows) > 1:
        rows.append(("mean", _means(facts, rows)))
    return Table(facts.models, rows)


def _cells(facts: RunFacts, benchmark: str, budget: int | None) -> dict[str, Cell]:
    found = {model: facts.results.get((model, benchmark, budget)) for model in facts.models}
    return {
        model: Cell(result.estimate, _gain_of(facts, result), result.stale)
        for model, result in found.items()
        if result is not None
    }


def _gain_of(facts: RunFacts, result: Result) -> Gain | None:
    before = facts.current(facts.parent(result.model) or "", result.benchmark, result.budget)
    return gain(before, result) if before is not None and not result.stale else None


def _means(facts: RunFacts, rows: list[tuple[str, dict[str, Cell]]]) -> dict[str, Cell]:
    """Only of models that have every benchmark: means over different sets do not compare."""
    out = {}
    for model in facts.models:
        cells = [row[model] for _, row in rows if model in row and not row[model].stale]
        if len(cells) < len(rows):
            continue
        gains = [cell.gain for cell in cells if cell.gain is not None]
        whole = (
            Gain(
                mean_of_estimates([g.estimate for g in gains]),
                gains[0].against,
                all(g.paired for g in gains),
            )
            if len(gains) == len(rows)
            else None
        )
        out[model] = Cell(mean_of_estimates([cell.accuracy for cell in cells]), whole)
    return out


def total_gains(facts: RunFacts, budget: int | None = None) -> list[tuple[str, Gain]]:
    """(benchmark label, gain) of the last evaluated model over the first, largest first."""
    if len(facts.evaluated) < 2:
        return []
    first, last = facts.evaluated[0], facts.evaluated[-1]
    pairs = [
        (b, facts.current(first, b, budget), facts.current(last, b, budget))
        for b in facts.benchmarks
    ]
    gains = [(label(b), gain(old, new)) for b, old, new in pairs if old and new]
    return sorted(gains, key=lambda item: -item[1].estimate.value)
