"""The maker of `curate`: opens the input and the steps, and takes rows through them in batches."""

import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import cast

from data_mix.curate.config import CurateConfig
from data_mix.curate.equations import surviving
from data_mix.curate.inputs import open_input
from data_mix.curate.step import CurateStep
from data_mix.scatter import ShardJob, Unit
from data_mix.shard_columns import Row
from data_mix.shards import Item, Kept, Outcome, Removed, says
from workbench.registry import resolve

# Rows that steps see at once, where none wants more: enough for a server, few enough to hold.
BATCH_ROWS = 64
INPUT = "input"
"""What the reading of rows is called in figures, beside the steps."""


def open_maker(job: ShardJob) -> "CurateMaker":
    """See data_mix.scatter.ShardJob."""
    return CurateMaker(job)


class CurateMaker:
    """Takes the rows of a unit through all steps."""

    def __init__(self, job: ShardJob) -> None:
        config = cast(CurateConfig, job.config)
        self._input = open_input(config.input)
        self._steps: list[CurateStep] = [
            resolve(step.open)(step, name, job)
            for name, step in zip(config.names(), config.steps, strict=True)
        ]
        self._batch_rows = max([BATCH_ROWS, *(step.batch_rows for step in self._steps)])
        self._seconds: dict[str, float] = defaultdict(float)

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Maker."""
        for step in self._steps:
            step.begins(unit.number)
        return self._input.rows(unit)

    def decide(self, items: Iterator[Item]) -> Iterator[tuple[Item, Outcome]]:
        """See Maker."""
        while batch := self._timed_batch(items):
            yield from self._batch(batch)

    def _timed_batch(self, items: Iterator[Item]) -> list[Item]:
        started = time.perf_counter()
        batch = list(islice(items, self._batch_rows))
        self._seconds["read"] += time.perf_counter() - started
        return batch

    def _batch(self, batch: list[Item]) -> list[tuple[Item, Outcome]]:
        decided: dict[int, Outcome] = {
            item.place: Removed(INPUT, item.row.pop("unreadable"))
            for item in batch
            if "unreadable" in item.row
        }
        going = [item for item in batch if item.place not in decided]
        for step in self._steps:
            started = time.perf_counter()
            decisions = step.decide(going)
            self._seconds[step.name] += time.perf_counter() - started
            rest = []
            for item, decision in zip(going, decisions, strict=True):
                if decision is not None:
                    decided[item.place] = decision
                    continue
                item.sizes[step.name] = len(says(item.row))
                _count_equations(step, item)
                rest.append(item)
            going = rest
        for item in going:
            decided[item.place] = Kept([item.row])
        return [(item, decided[item.place]) for item in batch]

    def seconds(self) -> dict[str, float]:
        """See Maker."""
        found = dict(self._seconds)
        self._seconds.clear()
        return found


def _count_equations(step: CurateStep, item: Item) -> None:
    """How many of a page's equations it still has, after each step since they were listed."""
    equations, text = item.row.get("equations"), item.row.get("text")
    if equations and isinstance(text, str):
        step.count(item, "equations before", len(equations))
        step.count(item, "equations after", surviving(equations, text))
