"""What on-policy distillation will cost, and whether what it reads is there. Imports no torch."""

from data_mix.inputs import check_data
from rl.distill.config import OnPolicyDistillConfig
from rl.inputs import looked_at
from rl.rows import Rules
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import Beside, TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_distill(config: OnPolicyDistillConfig, recipe: Recipe) -> StagePlan:
    """Replies sampled and trained on, at most. Raises: UserError where several processes cannot be."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    replies = config.prompts_per_step * config.samples
    engine = config.engine
    held_out = 2 * config.num_held_out * len(config.budgets)
    tokens = (config.num_steps * replies + held_out) * config.max_tokens
    budgets = ", ".join("none" if b is None else str(b) for b in config.budgets)
    line = (
        f"{config.num_steps} steps x {replies} replies of at most {config.max_tokens} tokens (budgets: "
        f"{budgets}), taught by {config.teacher}; {config.num_held_out} held-out prompts before and after"
    )
    generation = engine.load(tokens, replies)
    training = TrainingLoad(
        tokens=config.num_steps * replies * engine.max_model_len,
        step_tokens=replies * engine.max_model_len,
        published=True,
        beside=(Beside(config.teacher),),
        row_tokens=config.microbatch_tokens,
        document_tokens=min(engine.max_model_len, config.microbatch_tokens),
        bound=True,
        **load_of(config),
    )
    return StagePlan(
        lines=(line,),
        steps=config.num_steps,
        tokens=tokens,
        disk_bytes=2**28,
        loads=(generation, training),
    )


def check_distill(config: OnPolicyDistillConfig) -> list[str]:
    """What was looked at of local files, a line each. Raises: UserError where a row is bad."""
    check_data(config, disjoint_rows=("prompts", "held_out"))
    rules = Rules(False, config.skip_bad)
    sources = {"prompts": config.prompts, "held_out": config.held_out}
    return [line for name, source in sources.items() for line in looked_at(name, source, rules)]
