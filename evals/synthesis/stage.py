"""Stage kind `synthesize`: seeds in, rows that models wrote and gates let through out, shard by shard."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_mix.card import finish
from data_mix.config import ShardsSource
from data_mix.documents import document_of, trainable
from data_mix.shard_columns import Columns
from data_mix.shards import (
    Failed,
    Item,
    Kept,
    Outcome,
    Removed,
    ShardFacts,
    ShardWriter,
    read_shard,
    shard_facts,
    shard_files,
    total,
)
from data_mix.shards import columns_of as columns_of_stage
from data_mix.sources import open_source
from data_mix.where import all_met, check_columns
from engine.replies import ReplyLog
from environments.catalogue import take_tasks
from evals.synthesis.config import SynthesizeConfig, ToolDialogueTask
from evals.synthesis.drive import Driver, Played
from evals.synthesis.seeds import Seed, seed_of
from evals.synthesis.tasks import columns_of, maker
from evals.synthesis.voices import voices_of
from evals.synthesis.work import Made, Piece
from workbench.errors import StopRequested, UserError
from workbench.identity import must_be_own
from workbench.rundir import read_json_lines
from workbench.stage import StageContext

_FINISHED = "finished"


def run(context: StageContext) -> None:
    """Make every shard that is missing, ask again for rows that failed, and say what it came to."""
    config: SynthesizeConfig = context.config
    context.progress(message="reading the seeds")
    seeds = read_seeds(config, context.seed)
    voices, roles, writers = voices_of(config, context.inputs)
    make = maker(config.task, seeds)
    size = config.seeds_per_shard
    units = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    columns = columns_of(
        config.task, talks=isinstance(seeds[0], Seed) and seeds[0].conversation is not None
    )
    facts: list[ShardFacts] = []
    driver = Driver(voices, roles, _log(context, 0), context.seed, config.attempts)
    try:
        for number, unit in enumerate(units):
            pieces = [piece for seed in unit for piece in make(seed, writers)]
            facts.append(_shard(context, driver, number, pieces, columns))
    except StopRequested:
        context.stop()
    finally:
        driver.log.close()
        driver.close()
    for number in range(len(units), len(units) + 10_000):
        if shard_facts(context.stage_dir, number) is None:
            break
        raise AssertionError(f"shard {number} is of another configuration")
    finish(context, facts, columns, steps=[config.task.type])
    context.note(cost=cost_of(context.stage_dir), models={n: v.identity for n, v in voices.items()})
    _must_be_whole(config, total(facts))


def read_seeds(config: SynthesizeConfig, seed: int) -> list[Any]:
    """Seeds, or an environment's tasks. Raises: UserError where there are fewer than asked for, or two of
    one id."""
    if isinstance(config.task, ToolDialogueTask):
        assert config.num_seeds is not None
        return list(take_tasks(config.task.tasks, config.num_seeds, seed))
    assert config.seeds is not None
    if isinstance(config.seeds, ShardsSource):
        seeds = list(islice(_rows_of(config.seeds), config.num_seeds))
        if len(seeds) < (config.num_seeds or 1):
            raise UserError(
                f"seeds: stage {Path(config.seeds.stage).name!r} has {len(seeds):,} such rows; ask for fewer"
            )
        return seeds
    source = open_source(config.seeds, name="seeds", seed=seed)
    count = config.num_seeds or source.size
    if count is None:
        raise UserError("seeds: this source has no end; say how many with num_seeds")
    seeds = [
        seed_of(trainable(document), place) for place, document in enumerate(source.take(count))
    ]
    must_be_own([one.id for one in seeds], what="seeds")
    return seeds


def _rows_of(source: ShardsSource) -> Iterator[Seed]:
    """Rows of another stage with all that is known of them, in their order."""
    stage = Path(source.stage)
    check_columns(
        source.where, columns_of_stage(stage), name="seeds", place=f"stage {stage.name!r}"
    )
    for file in shard_files(stage):
        for row in read_shard(file):
            if all_met(row, source.where):
                document = document_of(row, source, where=f"{file}, row {row['id']!r}")
                yield Seed(str(row["id"]), trainable(document), row)


def _shard(
    context: StageContext, driver: Driver, number: int, pieces: Sequence[Piece], columns: Columns
) -> ShardFacts:
    """One shard: as it stands where it is whole; else made, or its failed rows asked for again."""
    stage, config = context.stage_dir, context.config
    again = shard_facts(stage, number)
    if again is not None and not again.num_failed:
        return again
    driver.log.close()
    driver.log = _log(context, number)
    driver.generation = 1 + sum(key.startswith(_FINISHED) for key in driver.log.rows)
    places, start = [], 0
    for piece in pieces:
        places.append(range(start, start + piece.rows))
        start += piece.rows
    retried = set(again.failed_places) if again is not None else set()
    chosen = [n for n, own in enumerate(places) if again is None or retried & set(own)]
    driver.watch = _watch(context, number)
    played = driver.play([pieces[n] for n in chosen])
    unit = f"{len(pieces):,} pieces of work"
    writer = ShardWriter(
        stage, ShardFacts(number, unit=unit), columns, keep_removed=config.keep_removed, again=again
    )
    try:
        for n, done in zip(chosen, played, strict=True):
            for place, outcome in zip(places[n], outcomes_of(done, config.task.type), strict=True):
                row = dict(outcome.rows[0]) if isinstance(outcome, Kept) else {"id": done.piece.id}
                writer.put(Item(place, row), outcome)
        facts = writer.close()
    except BaseException:
        writer.abandon()
        raise
    if facts.num_failed:
        driver.log.add({"key": f"{_FINISHED}-{driver.generation}"})
    return facts


def outcomes_of(done: Played, step: str) -> list[Outcome]:
    """What became of each row of a piece, as shards count it."""
    if done.failed:
        return [Failed(step, done.failed)] * done.piece.rows
    return [
        Kept([dict(one.row)]) if isinstance(one, Made) else Removed(step, one.reason)
        for one in done.outcomes
    ]


def _watch(context: StageContext, number: int) -> Any:
    def watch(fresh: int) -> bool:
        context.progress(step=fresh, message=f"shard {number}: {fresh:,} replies")
        return context.should_stop()

    return watch


def _log(context: StageContext, number: int) -> ReplyLog:
    return ReplyLog(context.stage_dir / "replies" / f"{number:05d}.jsonl")


def cost_of(stage: Path) -> dict[str, dict[str, int]]:
    """Model -> replies, cut ones, tokens of replies and of prompts, over all that was ever asked."""
    found: dict[str, Counter[str]] = {}
    for path in sorted((stage / "replies").glob("*.jsonl")):
        for row in read_json_lines(path):
            if "model" not in row:
                continue
            own = found.setdefault(row["model"], Counter())
            own["replies"] += 1
            own["cut"] += row["finish"] != "stop"
            own["tokens"] += row["tokens"]
            own["prompt_tokens"] += row["prompt_tokens"]
    return {name: dict(own) for name, own in found.items()}


def _must_be_whole(config: SynthesizeConfig, sums: ShardFacts) -> None:
    if sums.num_failed > config.max_failed * sums.rows_in:
        worst = max(sums.failed, key=lambda reason: sums.failed[reason])
        raise UserError(
            f"{sums.num_failed:,} of {sums.rows_in:,} rows failed (max_failed is {config.max_failed:g}; "
            f"most often: {worst}); the same command asks for them again"
        )
    if not sums.rows_out:
        worst = max(sums.removed, key=lambda reason: sums.removed[reason], default="no seeds")
        raise UserError(
            f"no row came through the gates ({sums.num_removed:,} removed; most often: {worst}); "
            "removed/ has some of them"
        )
