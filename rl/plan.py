"""What a GRPO stage will cost. Imports no torch."""

from dataclasses import replace

from environments.config import EnvironmentSource
from model.lora_config import load_of_lora
from rl.config import GrpoConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import Beside, GenerationLoad, TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_grpo(config: GrpoConfig, recipe: Recipe) -> StagePlan:
    """Rollouts and the most tokens they can take. Raises: UserError where several processes cannot be, or an
    engine beside the trainer."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    if config.max_staleness and recipe.cluster.backend == "local":
        raise UserError(
            f"max_staleness {config.max_staleness} with cluster.backend 'local', whose engine is in the "
            "trainer's own process and cannot sample beside it; use backend: ray or max_staleness: 0"
        )
    a_step = config.prompts_per_step * config.group_size
    turns = config.max_turns if isinstance(config.prompts, EnvironmentSource) else 1
    line = (
        f"{config.num_steps} steps x {config.prompts_per_step} prompts x {config.group_size} replies "
        f"of at most {config.max_tokens} tokens; {config.num_held_out} held-out prompts before and after"
    )
    rounds = config.dynamic_rounds if config.dynamic_sampling else 1
    if turns > 1:
        line += f"; up to {turns} replies an episode"
    if rounds > 1:
        line += f"; dynamic sampling may sample up to {rounds} times as many prompts"
    replies = a_step * config.num_steps * rounds + 2 * config.num_held_out
    if (validation := config.validation) is not None:
        times = config.num_steps // validation.every + 1 + bool(config.num_steps % validation.every)
        line += f"; {times} validations of {validation.num_prompts} prompts x {validation.samples} replies"
        replies += times * validation.num_prompts * validation.samples
    tokens = replies * config.max_tokens * turns
    return StagePlan(
        lines=(line,),
        steps=config.num_steps,
        tokens=tokens,
        disk_bytes=2**28,
        loads=_loads(config, tokens),
    )


def _loads(config: GrpoConfig, tokens: int) -> tuple[GenerationLoad | TrainingLoad, ...]:
    """Rollouts, and the training on them; prompts are not counted."""
    engine = config.engine
    step_tokens = config.prompts_per_step * config.group_size * config.max_tokens
    training = TrainingLoad(
        tokens=config.num_steps * step_tokens,
        step_tokens=step_tokens,
        row_tokens=config.microbatch_tokens,
        document_tokens=min(engine.max_model_len, config.microbatch_tokens),
        **load_of(config),
        precision=config.precision,
        activations=config.activations,
        **load_of_lora(config.lora),
        bound=True,
        published=True,
        output="logprobs",
        beside=_beside(config),
    )
    asked = engine.load(tokens, config.prompts_per_step * config.group_size)
    told = replace(asked, published=True, lora_rank=training.lora_rank, sleep=engine.sleep)
    return told, training


def _beside(config: GrpoConfig) -> tuple[Beside, ...]:
    """Reward models, whole in the first process, and the reference of a KL, sharded."""
    scores = [source.model for source in config.reward.sources().values() if source.model]
    found = [Beside(name, sharded=False, passes=0) for name in scores]
    if config.loss.kl_coefficient and config.lora is None:
        found.append(Beside(config.needs[0]))
    return tuple(found)
