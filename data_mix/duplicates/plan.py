"""The plan of `dedup`. Imports no torch."""

from data_mix.duplicates.config import DedupConfig
from data_mix.rates import load_of
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_dedup(config: DedupConfig, recipe: Recipe) -> StagePlan:
    """What is compared, and what it costs for each row."""
    lines = [f"{', '.join(config.inputs)}: exact duplicates"]
    if config.against:
        lines.append(f"rows of {', '.join(config.against)} stay, and come first")
    disk = 12
    if config.near is not None:
        found = 1 - (1 - config.near**config.rows) ** config.bands
        lines[0] += f", and near ones from J = {config.near:g}"
        lines.append(
            f"{config.bands} bands of {config.rows}: {found:.1%} of pairs at J = {config.near:g} are compared"
        )
        disk += config.bands * (config.rows * 4 + 12)
    lines.append(f"on disk {disk:,} bytes a row while it runs, in memory 1 byte")
    return StagePlan(lines=tuple(lines), data=load_of(config.expected, ["dedup"]))
