"""What rejection sampling will cost, and whether what it reads is there. Imports no torch."""

from data_mix.inputs import check_data
from rl.inputs import looked_at
from rl.rejection.config import RejectionConfig
from rl.rows import Rules
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_rejection(config: RejectionConfig, recipe: Recipe) -> StagePlan:
    """Replies sampled, and the most rows that they can make."""
    replies = config.num_prompts * config.samples
    most = config.num_prompts * (1 if config.keep == "best" else min(config.most, config.samples))
    load = config.engine.load(replies * config.max_tokens, replies)
    line = (
        f"{config.num_prompts:,} prompts x {config.samples} replies of at most {config.max_tokens} tokens; "
        f"at most {most:,} rows ({config.keep} of value {config.least:g} or more)"
    )
    return StagePlan(lines=(line,), tokens=replies * config.max_tokens, loads=(load,))


def check_rejection(config: RejectionConfig) -> list[str]:
    """What was looked at of local files, a line each. Raises: UserError where a row is bad."""
    check_data(config, disjoint_rows=("prompts",))
    return list(looked_at("prompts", config.prompts, Rules(config.checked, config.skip_bad)))
