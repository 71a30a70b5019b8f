"""What a GRPO stage will cost. Imports no torch."""

from rl.config import GrpoConfig
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_grpo(config: GrpoConfig, recipe: Recipe) -> StagePlan:
    """Rollouts and the most tokens they can take."""
    a_step = config.prompts_per_step * config.group_size
    line = (
        f"{config.num_steps} steps x {config.prompts_per_step} prompts x {config.group_size} replies "
        f"of at most {config.max_tokens} tokens; {config.num_held_out} held-out prompts before and after"
    )
    tokens = (a_step * config.num_steps + 2 * config.num_held_out) * config.max_tokens
    return StagePlan(lines=(line,), steps=config.num_steps, tokens=tokens, disk_bytes=2**28)
