"""What the recipe sections of every data stage have: how rows are cut into shards, and who makes them."""

from pydantic import Field

from data_mix.rates import Expected
from workbench.recipe import StageConfig
from workbench.schema import Section


class Workers(Section):
    """The processes that make shards, one shard each at a time."""

    most: int | None = Field(None, ge=1)
    """How many at once; null: as many as the cluster has CPUs for."""
    cpus: float = Field(1.0, gt=0)
    """Logical CPUs of each."""


class DataStageConfig(StageConfig):
    """A stage that makes shards of rows (data_mix.shards)."""

    SAME_RESULT = StageConfig.SAME_RESULT | {"workers", "max_failed", "retries", "expected"}

    cpus: float = Field(0.0, ge=0)
    """Logical CPUs the stage itself reserves: none, for it waits for its workers."""
    rows_per_shard: int = Field(20_000, ge=1)
    """Input rows of a shard: what a kill costs at most, for each worker. Shards of another stage stay as
    they are."""
    workers: Workers = Workers()
    """Who makes the shards."""
    max_failed: float = Field(0.01, ge=0, le=1)
    """Share of rows that may stay without a decision (a dead server, a crash of a tool). Beyond it the
    stage fails; the same command tries those rows again."""
    retries: int = Field(1, ge=0)
    """How often failed rows are tried again before the stage ends."""
    keep_removed: float = Field(0.01, ge=0, le=1)
    """Share of removed rows whose text is kept for the report."""
    expected: Expected | None = None
    """How much it is going to read, for scripts/plan.py alone; null: not priced."""
