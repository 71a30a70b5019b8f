"""What the stages that compress a model will cost. Imports no torch."""

from pretrain.compress.config import PruneConfig
from pretrain.compress.target import check_target, planned_shape
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_prune(config: PruneConfig, recipe: Recipe) -> StagePlan:
    """Calibration tokens and forward passes over them. Raises: UserError for an impossible target."""
    before = planned_shape(recipe, config.needs)
    tokens = config.samples * config.row_tokens
    sizes = ", ".join(
        f"{key} {value:,}" for key, value in config.target.model_dump().items() if value is not None
    )
    lines = [f"to {sizes}; {config.samples:,} rows x {config.row_tokens:,} = {tokens:,} tokens"]
    if before is not None:
        check_target(config.target, before, config.removable)
        removed = len(before.pattern) - (config.target.layers or len(before.pattern))
        lines.append(
            f"depth: {removed} of {len(before.pattern)} layers go, one a round; a round is about "
            f"{2 + len(before.pattern) // 2} forward passes over the rows"
        )
    return StagePlan(lines=tuple(lines), disk_bytes=2**28)
