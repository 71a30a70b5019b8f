"""What a DPO stage will cost. Imports no torch."""

from model.lora_config import load_of_lora
from rl.dpo.config import DpoConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_dpo(config: DpoConfig, recipe: Recipe) -> StagePlan:
    """Episodes, and the most tokens and pairs they can come to."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    a_round = config.num_tasks * config.samples
    held_out = 2 * config.num_held_out * config.held_out_samples
    pairs = config.num_tasks * config.pairs_per_task
    steps = config.rounds * -(-round(pairs * config.epochs) // config.pairs_per_step)
    tokens = (a_round * config.rounds + held_out) * config.max_turns * config.max_tokens
    line = (
        f"{config.rounds} rounds x {config.num_tasks} {config.tasks.type} tasks x {config.samples} "
        f"episodes of at most {config.max_turns} replies; at most {pairs:,} pairs a round; "
        f"{config.num_held_out} held-out tasks before and after"
    )
    engine = config.engine
    generation = engine.load(tokens, a_round)
    training = TrainingLoad(
        tokens=round(2 * pairs * config.epochs * config.rounds) * config.row_tokens,
        row_tokens=config.row_tokens,
        microbatch_rows=2 * config.microbatch_pairs,
        document_tokens=min(engine.max_model_len, config.row_tokens),
        **load_of(config),
        step_tokens=2 * config.pairs_per_step * config.row_tokens,
        precision=config.precision,
        activations=config.activations,
        **load_of_lora(config.lora),
        bound=True,
        models=config.rounds + 1,
    )
    return StagePlan(
        lines=(line,),
        steps=steps,
        tokens=tokens,
        disk_bytes=2**28,
        loads=(generation, training),
    )
