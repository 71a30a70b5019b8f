"""Differences between models, and what a stage changed in its own measures: numbers and words."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reports.page import percent, points
from reports.read import Evaluation, RunFacts
from workbench.records import Difference, Estimate, ModelDifference
from workbench.statistics import (
    difference_of_models,
    mean_of_differences,
    mean_of_estimates,
    unpaired_difference,
)


@dataclass(frozen=True)
class Cell:
    """One model on one benchmark: its accuracy, and its gain over the model it was made from. stale:
    of an earlier checkpoint, and so in no gain and no mean."""

    accuracy: Estimate
    gain: Difference | None = None
    stale: bool = False


@dataclass(frozen=True)
class Table:
    """rows: (label, cells by model). The last row is the mean where there is more than one."""

    models: list[str]
    rows: list[tuple[str, dict[str, Cell]]]

    def n(self, cells: dict[str, Cell]) -> str:
        """Questions behind a row."""
        return questions(cells.values())

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


def difference(before: Evaluation, after: Evaluation) -> Difference:
    """after - before, paired by question id and clustered by problem; unpaired where either has no
    samples."""
    found = difference_of_models(before.questions, after.questions, against=before.model)
    if found is not None:
        return found
    return unpaired_difference(before.estimate, after.estimate, against=before.model)


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
    if len(rows) > 1 and (means := _means(facts, rows)):
        rows.append(("mean", means))
    return Table(facts.models, rows)


def _cells(facts: RunFacts, benchmark: str, budget: int | None) -> dict[str, Cell]:
    found = {model: facts.results.get((model, benchmark, budget)) for model in facts.models}
    return {
        model: Cell(result.estimate, _gain_of(facts, result), result.stale)
        for model, result in found.items()
        if result is not None
    }


def _gain_of(facts: RunFacts, found: Evaluation) -> Difference | None:
    result = found.result
    before = facts.current(facts.parent(found.model) or "", result.benchmark, result.budget)
    return difference(before, found) if before is not None and not found.stale else None


def _means(facts: RunFacts, rows: list[tuple[str, dict[str, Cell]]]) -> dict[str, Cell]:
    """Only of models that have every benchmark: means over different sets do not compare."""
    out = {}
    for model in facts.models:
        cells = [row[model] for _, row in rows if model in row and not row[model].stale]
        if len(cells) < len(rows):
            continue
        gains = [cell.gain for cell in cells if cell.gain is not None]
        whole = None
        if len(gains) == len(rows):
            whole = mean_of_differences(gains, against=gains[0].against)
        out[model] = Cell(mean_of_estimates([cell.accuracy for cell in cells]), whole)
    return out


def total_gains(facts: RunFacts, budget: int | None = None) -> list[tuple[str, Difference]]:
    """(benchmark label, gain) of the last evaluated model over the first, largest first."""
    if len(facts.evaluated) < 2:
        return []
    first, last = facts.evaluated[0], facts.evaluated[-1]
    pairs = [
        (b, facts.current(first, b, budget), facts.current(last, b, budget))
        for b in facts.benchmarks
    ]
    gains = [(label(b), difference(old, new)) for b, old, new in pairs if old and new]
    return sorted(gains, key=lambda item: -item[1].difference.value)


@dataclass(frozen=True)
class StageDifference:
    """A stage's own measure before and after it, in words."""

    stage: str
    found: Difference

    @property
    def measure(self) -> str:
        """What was measured, and of which arm where the stage has several."""
        found = self.found
        return (
            f"{found.what} of {found.model}" if isinstance(found, ModelDifference) else found.what
        )

    def level(self, estimate: Estimate) -> str:
        """A level and its interval."""
        if self.found.share:
            return f"{percent(estimate.value)} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"
        return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"

    def change(self) -> tuple[str, str]:
        """The difference, and its interval."""
        write: Callable[[float], str] = points if self.found.share else "{:+.3f}".format
        low, high = self.found.difference.ci95
        interval = "no interval" if math.isnan(low) else f"{write(low)} to {write(high)}"
        return write(self.found.difference.value), interval

    @property
    def mark(self) -> str:
        """up or down where the interval is clear of 0, else nothing."""
        if not self.found.difference.clear_of_zero:
            return ""
        return "up" if self.found.difference.value > 0 else "down"

    @property
    def note(self) -> str:
        """What follows n: what it counts, and what is left out of it."""
        found, unit = self.found, self.found.unit
        if not unit and 0 < found.problems < found.n:
            unit = f"questions on {found.problems} problems"
        failed = f"{found.failed} failed and are left out" if found.failed else ""
        return f" {unit}".rstrip() + "".join(f"; {more}" for more in (failed, found.note) if more)

    def sentence(self) -> str:
        """For the head of the report and the terminal."""
        found = self.found
        shown = percent if found.share else "{:.3f}".format
        levels = f"{shown(found.before.value)} → {shown(found.after.value)}"
        value, interval = self.change()
        unit = " points" if found.share else ""
        known = "" if math.isnan(found.difference.low) else "95% interval "
        return (
            f"{self.stage}: {self.measure} {levels}, {value}{unit} ({known}{interval}, "
            f"n = {found.n}{self.note})."
        )


def stage_differences(facts: RunFacts) -> list[StageDifference]:
    """What every stage says of itself, in the recipe's order."""
    return [StageDifference(s.name, d) for s in facts.stages.values() for d in s.result.differences]
