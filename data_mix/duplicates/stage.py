"""Run the stage kind `dedup`: sign, pair, decide, and write what stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from data_mix.card import finish
from data_mix.duplicates.config import DedupConfig
from data_mix.duplicates.files import EXACT, KEEP, ShardFile, Work, opened, parts_of
from data_mix.duplicates.passes import Shape, decide, pair, ranges_of, sign
from data_mix.scatter import ShardJob, Unit, make_shards, scatter
from data_mix.shard_columns import Row
from data_mix.shards import Item, Kept, Outcome, Removed, columns_of, read_shard
from workbench.errors import UserError
from workbench.stage import StageContext

STEP = "dedup"


def run(context: StageContext) -> None:
    """Four passes; each begins where an earlier attempt stopped."""
    config: DedupConfig = context.config
    inputs = [Path(name) for name in config.inputs]
    columns = columns_of(inputs[0])
    for other in inputs[1:]:
        if columns_of(other) != columns:
            raise UserError(
                f"stages {inputs[0].name!r} and {other.name!r} have other columns; deduplicate the second "
                f"in a stage of its own, with against: [{inputs[0].name}]"
            )
    parts = parts_of([Path(name) for name in config.against], inputs)
    shape = Shape(config.bands, config.rows, config.near, ranges_of(sum(p.count for p in parts)))
    job = ShardJob(
        open="data_mix.duplicates.stage:open_maker",
        config=config,
        stage=context.stage_dir,
        columns=columns,
        more={"parts": parts, "shape": shape},
    )
    work = Work(context.stage_dir)
    if not work.verdict.exists():
        bands = 1 + (config.bands if config.near is not None else 0)
        ranges = [(band, number) for band in range(bands) for number in range(shape.ranges)]
        _pass(context, scatter(job, parts, _sign), len(parts), "signatures")
        _pass(context, scatter(job, ranges, _pair), len(ranges), "pairs")
        decide(work, parts, len(ranges))
    own = [part for part in parts if part.own]
    units = [
        Unit(number, f"{part.stage.name}/{part.shard:05d}", part.number)
        for number, part in enumerate(own)
    ]
    finish(context, make_shards(context, job, units), columns, steps=[STEP])


def _pass(context: StageContext, done: Iterator[None], total: int, message: str) -> None:
    context.progress(step=0, total=total, message=message)
    for number, _ in enumerate(done, start=1):
        context.progress(step=number, total=total, message=message)
        if context.should_stop():
            context.stop()


def _sign(job: ShardJob, part: ShardFile) -> None:
    sign(Work(job.stage), part, job.more["shape"])


def _pair(job: ShardJob, place: tuple[int, int]) -> None:
    pair(Work(job.stage), job.more["parts"], *place, job.more["shape"])


def open_maker(job: ShardJob) -> "DedupMaker":
    """See data_mix.scatter.ShardJob."""
    return DedupMaker(job)


class DedupMaker:
    """Writes a shard's rows again, without those that go."""

    def __init__(self, job: ShardJob) -> None:
        self._parts = cast(list[ShardFile], job.more["parts"])
        self._verdict = opened(Work(job.stage).verdict)
        self._first = 0

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Maker."""
        part = self._parts[unit.start]
        self._first = part.first
        return read_shard(part.file)

    def decide(self, items: Iterator[Item]) -> Iterator[tuple[Item, Outcome]]:
        """See Maker."""
        for item in items:
            found = self._verdict[self._first + item.place]
            if found == KEEP:
                yield item, Kept([item.row])
            else:
                yield item, Removed(STEP, "exact duplicate" if found == EXACT else "near duplicate")

    def seconds(self) -> dict[str, float]:
        """See Maker."""
        return {}
