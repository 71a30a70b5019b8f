"""Run recipes of data stages in this process, and read what they made. For tests."""

import io
from pathlib import Path
from typing import Any

from data_mix.shard_columns import Row
from data_mix.shards import read_shard, shard_files
from workbench.graph.dag import order
from workbench.graph.execute import drive
from workbench.recipe import build
from workbench.rundir import RunDir


def run_stages(
    folder: Path, stages: dict[str, Any], *, fresh: set[str] = frozenset()
) -> tuple[int, str]:
    """The exit code and what was shown. Raises: UserError as the command does."""
    raw = {"name": "t", "seed": 3, "cluster": {"backend": "local"}, "stages": stages}
    recipe, run, out = build(raw), RunDir(folder), io.StringIO()
    with run.claimed():
        run.adopt(recipe.resolved())
        return drive(recipe, run, order(recipe, ["all"]), fresh=set(fresh), out=out), out.getvalue()


def rows_of(folder: Path, stage: str) -> list[Row]:
    """All rows that a stage made, in order."""
    return [row for file in shard_files(folder / stage) for row in read_shard(file)]


def files_of(folder: Path, stage: str) -> dict[str, bytes]:
    """The bytes of everything that a stage's rows are kept in."""
    places = [*(folder / stage).glob("shards/*.parquet"), *(folder / stage).glob("removed/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(places)}


def data_of(folder: Path, stage: str) -> dict[str, Any]:
    """What the stage says of its data."""
    manifest = RunDir(folder).manifest(stage)
    assert manifest is not None, f"stage {stage} has not run"
    return dict(manifest.outputs["data"])
