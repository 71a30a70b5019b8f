"""Make the shards of a stage on all workers that there are: Ray Data, Ray tasks, or this process.

The seam for a data stage is `ShardJob`: a picklable value that opens a `Maker` in each worker process, once.
`make_shards` gives every unit that has no whole shard to some maker, then tries failed rows again. It may
be killed at any moment and called again: units are cut the same way each time, a shard depends on its unit
and the configuration alone, and so the files are equal to the bit however often it happened.

A stage of another kind needs no more than::

    job = ShardJob(open="data_mix.mine:open_maker", config=config, stage=context.stage_dir, columns=COLUMNS)
    facts = make_shards(context, job, units)          # then data_mix.card.finish(context, ...)

with, in `data_mix/mine.py`, `open_maker(job) -> Maker`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from data_mix.data_stage import DataStageConfig
from data_mix.shard_columns import Columns, Row
from data_mix.shards import (
    Item,
    Outcome,
    ShardFacts,
    ShardWriter,
    says,
    shard_facts,
    total,
)
from workbench.cluster import runtime_env
from workbench.errors import UserError
from workbench.registry import resolve
from workbench.stage import StageContext

# A worker that dies with its node, or for want of memory, is another one's work.
_TASK_RETRIES = 3
# Parts that are with Ray at once, for each worker. Ray withdraws its request for a further worker whenever no
# task waits in its queue: with one for each, parts shorter than a worker's start were all done by the first one.
_OPEN = 2


@dataclass(frozen=True)
class Unit:
    """Input rows of one shard: `count` rows (None: all) from `start` in the file or stream `place`."""

    number: int
    place: str
    start: int = 0
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.place}, from {self.start}" if self.start else self.place


class Maker(Protocol):
    """Reads the rows of units, and decides on them. One lives in each worker process."""

    def rows(self, unit: Unit) -> Iterator[Row]:
        """The unit's rows, always the same in the same order."""
        ...

    def decide(self, items: Iterator[Item]) -> Iterator[tuple[Item, Outcome]]:
        """Each item with its outcome, in their order. May look ahead: requests in flight, batches."""
        ...

    def seconds(self) -> dict[str, float]:
        """Seconds by step since the last call."""
        ...


@dataclass(frozen=True)
class ShardJob:
    """What a worker process needs. open: "package.module:name" of `(ShardJob) -> Maker`."""

    open: str
    config: DataStageConfig
    stage: Path
    """The stage's folder, on storage that every node sees."""
    columns: Columns
    seed: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    """What else the maker needs; picklable."""


def make_shards(context: StageContext, job: ShardJob, units: Sequence[Unit]) -> list[ShardFacts]:
    """Make what is missing, try again what failed; the facts of all shards, in order.

    Raises: StopRequested where the run is to stop; UserError where more than `max_failed` stays failed.
    """
    config: DataStageConfig = context.config
    (job.stage / "shards").mkdir(parents=True, exist_ok=True)
    _maker.cache_clear()  # what an earlier stage of this process read may have changed
    open_units = [unit for unit in units if shard_facts(job.stage, unit.number) is None]
    _make(context, job, open_units, done=len(units) - len(open_units), of=len(units))
    for _ in range(config.retries):
        again = [u for u in units if _facts(job, u).failed]
        if not again:
            break
        _make(context, job, again, done=0, of=len(again), message="failed rows again")
    facts = [_facts(job, unit) for unit in units]
    _must_be_decided(job, facts)
    return facts


def _make(
    context: StageContext,
    job: ShardJob,
    units: Sequence[Unit],
    *,
    done: int,
    of: int,
    message: str = "shards",
) -> None:
    context.progress(step=done, total=of, message=message)
    for _ in scatter(job, units, make_shard):
        done += 1
        context.progress(step=done, total=of, message=message)
        if context.should_stop():
            context.stop()


def _facts(job: ShardJob, unit: Unit) -> ShardFacts:
    found = shard_facts(job.stage, unit.number)
    assert found is not None, f"shard {unit.number} was not made"
    return found


def _must_be_decided(job: ShardJob, facts: Sequence[ShardFacts]) -> None:
    sums = total(facts)
    if sums.num_failed > job.config.max_failed * sums.rows_in:
        worst = max(sums.failed, key=lambda reason: sums.failed[reason])
        raise UserError(
            f"{sums.num_failed:,} of {sums.rows_in:,} rows are without a decision, most by "
            f"{worst[:300]}; mend that and run the same command, which tries them again, or raise "
            f"max_failed ({job.config.max_failed:g}). Rows: {job.stage / 'failed'}"
        )


def scatter(
    job: ShardJob, parts: Sequence[Any], work: Callable[[ShardJob, Any], Any]
) -> Iterator[Any]:
    """What `work(job, part)` returns for each part, as it gets ready, in any order.

    work: a function of a module, which may be called again for a part that was cut short.
    """
    if not parts:
        return iter(())
    room = _room(job)
    most = min(job.config.workers.most or len(parts), len(parts))
    if room is None:
        return (work(job, part) for part in parts)
    # Ray Data's operators need a CPU beside their actors, and wait for ever where they get none.
    if room > most:
        return _by_ray_data(job, parts, work, most)
    return _by_tasks(job, parts, work, most)


def _room(job: ShardJob) -> int | None:
    """How many workers the cluster has CPUs for; None where no Ray runs."""
    ray = sys.modules.get("ray")  # a run without Ray has not imported it, which takes seconds
    if ray is None or not ray.is_initialized():
        return None
    return int(ray.cluster_resources().get("CPU", 0) / job.config.workers.cpus)


def _by_tasks(job: ShardJob, parts: Sequence[Any], work: Any, most: int) -> Iterator[Any]:
    import ray  # noqa: PLC0415 - see _room

    remote = ray.remote(work).options(
        num_cpus=job.config.workers.cpus, max_retries=_TASK_RETRIES, runtime_env=runtime_env(0)
    )
    waiting, running = list(reversed(parts)), list[Any]()
    kept = ray.put(job)
    try:
        while waiting or running:
            # A cluster that grows would run all that is open: the limit is then the recipe's.
            room = max(_room(job) or 0, 1)
            while waiting and len(running) < (most if room > most else _OPEN * room):
                running.append(remote.remote(kept, waiting.pop()))
            finished, running = ray.wait(running, timeout=None)
            for task in finished:
                with _ours():
                    found = ray.get(task)
                yield found
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _by_ray_data(job: ShardJob, parts: Sequence[Any], work: Any, most: int) -> Iterator[Any]:
    import ray.data  # noqa: PLC0415 - see _room

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    made = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    made = made.map_batches(
        _Actor,
        fn_constructor_args=(job, work),
        batch_size=1,
        concurrency=most,
        num_cpus=job.config.workers.cpus,
        runtime_env=runtime_env(0),
        max_restarts=_TASK_RETRIES,
        max_task_retries=_TASK_RETRIES,
    )
    with _ours():
        for row in made.iter_rows():
            yield row["made"]


class _Actor:
    """The shell of `work` for Ray Data's pool of actors."""

    def __init__(self, job: ShardJob, work: Callable[[ShardJob, Any], Any]) -> None:
        self._job, self._work = job, work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return {"made": [self._work(self._job, part) for part in batch["part"]]}


@contextmanager
def _ours() -> Iterator[None]:
    """A UserError of a worker is one here."""
    import ray  # noqa: PLC0415 - see _room

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def make_shard(job: ShardJob, unit: Unit) -> ShardFacts:
    """Make one shard, or try its failed rows again where it stands. Runs in any process."""
    standing = shard_facts(job.stage, unit.number)
    again = set(standing.failed_places) if standing else None
    maker = _maker(_Once(job))
    maker.seconds()
    started = time.perf_counter()
    writer = ShardWriter(
        job.stage,
        ShardFacts(unit.number, str(unit)),
        job.columns,
        keep_removed=job.config.keep_removed,
        again=standing,
    )
    sizes: dict[int, int] = {}
    try:
        items = _items(maker.rows(unit), again, sizes)
        for item, outcome in maker.decide(items):
            writer.put(item, outcome, characters_in=sizes.pop(item.place))
    except BaseException:
        writer.abandon()
        raise
    assert not sizes, f"{len(sizes)} rows of {unit} were given no outcome"
    writer.facts.seconds = {**maker.seconds(), "all": time.perf_counter() - started}
    return writer.close()


def _items(rows: Iterable[Row], again: set[int] | None, sizes: dict[int, int]) -> Iterator[Item]:
    for place, row in enumerate(rows):
        if again is None or place in again:
            sizes[place] = len(says(row))
            yield Item(place, row)


@dataclass(frozen=True, eq=False)
class _Once:
    """A job as the key of the cache: two are one where they make the same shards."""

    job: ShardJob

    def __hash__(self) -> int:
        return hash((self.job.open, self.job.stage, os.getpid()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and other.job == self.job


@lru_cache(maxsize=1)
def _maker(once: _Once) -> Maker:
    """A process opens a job once, and keeps it from shard to shard."""
    maker: Maker = resolve(once.job.open)(once.job)
    return maker
