"""Run the stage kind `curate`."""

from pathlib import Path

from data_mix.card import finish
from data_mix.curate.config import CurateConfig, WarcSource, columns_after
from data_mix.curate.debian import make_where_missing
from data_mix.curate.inputs import open_input
from data_mix.curate.plan import missing_programs
from data_mix.curate.worker import INPUT
from data_mix.scatter import ShardJob, make_shards
from workbench.errors import UserError
from workbench.registry import resolve
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Make the shards, and say what became of the rows."""
    config: CurateConfig = context.config
    if missing := missing_programs(config):
        raise UserError(missing[0])
    if isinstance(config.input, WarcSource) and config.input.from_debian:
        wanted = config.input.from_debian
        make_where_missing(Path(config.input.path), None if isinstance(wanted, bool) else wanted)
    opened = open_input(config.input)
    try:
        columns = columns_after(config, opened.columns)
    except ValueError as error:
        raise UserError(str(error)) from None
    job = ShardJob(
        open="data_mix.curate.worker:open_maker",
        config=config,
        stage=context.stage_dir,
        columns=columns,
        seed=context.seed,
    )
    units = opened.units(config.rows_per_shard)
    if not units:
        raise UserError(f"the input holds no rows: {config.input}; check its path")
    for step, name in zip(config.steps, config.names(), strict=True):
        if step.prepare is not None:
            context.progress(message=f"prepares {name}")
            resolve(step.prepare)(step, name, context.stage_dir)
    facts = make_shards(context, job, units)
    finish(context, facts, columns, steps=[INPUT, *config.names()])
