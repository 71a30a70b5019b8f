"""What a reward model stage will cost. Imports no torch."""

from model.lora_config import load_of_lora
from rl.reward_model.config import RewardModelConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_reward_model(config: RewardModelConfig, recipe: Recipe) -> StagePlan:
    """Replies sampled, and the most pairs they can come to."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    if config.given:
        return _given(config)
    prompts = config.num_prompts + config.num_held_out
    replies = prompts * config.samples * len(config.thinking)
    pairs = round(config.num_prompts * config.pairs_per_prompt * config.epochs)
    generation = config.engine.load(replies * config.max_tokens, replies)
    training = _training(config, pairs)
    line = (
        f"{prompts} prompts x {config.samples} replies x {len(config.thinking)} reasoning modes of at "
        f"most {config.max_tokens} tokens; at most {pairs:,} pairs"
    )
    return StagePlan(
        lines=(line,),
        steps=-(-pairs // config.pairs_per_step),
        tokens=replies * config.max_tokens,
        disk_bytes=2**28,
        loads=(generation, training),
    )


def _given(config: RewardModelConfig) -> StagePlan:
    """Of given pairs nothing is sampled."""
    pairs = round(config.num_prompts * config.epochs)
    return StagePlan(
        lines=(f"{config.num_prompts:,} given pairs; {config.num_held_out} held out",),
        steps=-(-pairs // config.pairs_per_step),
        disk_bytes=2**28,
        loads=(_training(config, pairs),),
    )


def _training(config: RewardModelConfig, pairs: int) -> TrainingLoad:
    return TrainingLoad(
        tokens=2 * pairs * config.row_tokens,
        row_tokens=config.row_tokens,
        microbatch_rows=2 * config.microbatch_pairs,
        **load_of(config),
        step_tokens=2 * config.pairs_per_step * config.row_tokens,
        precision=config.precision,
        activations=config.activations,
        **load_of_lora(config.lora),
        bound=True,
    )
