"""What a merge stage will cost. Imports no torch."""

from rl.merge.config import MergeConfig
from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_merge(config: MergeConfig, recipe: Recipe) -> StagePlan:
    """The sweep's evaluations."""
    if len(config.needs) != 2:
        raise UserError(
            f"a merge needs exactly two stages with models (alpha 0, then alpha 1); got "
            f"{', '.join(config.needs) or 'none'}"
        )
    evals = config.evals_config()
    a_model = len(evals.benchmarks) * evals.limit * evals.samples * max(len(evals.thinking), 1)
    count = len(config.alphas) + 2 * config.endpoints
    line = (
        f"{config.needs[0]} -> {config.needs[1]} at {len(config.alphas)} alphas"
        f"{' and both ends' if config.endpoints else ''}; {a_model:,} samples each, picked by "
        f"{config.metric}"
    )
    return StagePlan(
        lines=(line,), steps=count, tokens=count * a_model * evals.max_tokens, disk_bytes=2**28
    )
