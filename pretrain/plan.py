"""What the base-model stages will cost. Imports no torch."""

from dataclasses import replace

from model.presets import shape
from model.sizes import parameters as count_parameters
from pretrain.compress.target import parent_shape
from pretrain.config import PretrainConfig, TokenizerConfig, TrainingConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import Beside, TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan

STATE_BYTES = 12  # a parameter: fp32 weights and two fp32 Adam moments
CHECKPOINTS_AT_ONCE = 3  # two kept and one being written


def plan_tokenizer(config: TokenizerConfig, recipe: Recipe) -> StagePlan:
    """Documents read and vocabulary made."""
    line = f"BPE with {config.vocab_size:,} entries from {config.sample_documents:,} documents"
    if config.from_pretrained:
        line = f"the tokenizer of {config.from_pretrained}"
    return StagePlan(lines=(line,), disk_bytes=2**22)


def training_load(config: TrainingConfig, tokens: int, *beside: Beside) -> TrainingLoad:
    """What a training on a blend puts on its cards. beside: models that lie there too."""
    return TrainingLoad(
        tokens=tokens,
        row_tokens=config.row_tokens,
        microbatch_rows=config.microbatch_rows,
        **load_of(config),
        step_tokens=config.step_tokens,
        precision=config.precision,
        fp8_ends=config.fp8.ends,
        activations=config.activations,
        beside=beside,
    )


def plan_pretrain(config: PretrainConfig, recipe: Recipe) -> StagePlan:
    """Parameters, steps, tokens, FLOPs (6 N D) and disk."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    tokens = config.num_steps * config.step_tokens
    steps = (
        f"{config.num_steps:,} steps x {config.rows_per_step} rows x {config.row_tokens:,} "
        f"tokens = {tokens:,} tokens"
    )
    plan = StagePlan(steps=config.num_steps, tokens=tokens, loads=(training_load(config, tokens),))
    try:
        parameters, whose = _model(config, recipe)
    except UserError as error:
        return replace(plan, lines=(f"parameters unknown: {error}", steps), disk_bytes=2**28)
    state = parameters * STATE_BYTES
    return replace(
        plan,
        lines=(
            f"{parameters:,} parameters ({whose})",
            f"{steps}, {6 * parameters * tokens:.3g} FLOPs",
            f"{state / 2**30:,.2f} GiB of weights and optimizer state in fp32",
        ),
        disk_bytes=CHECKPOINTS_AT_ONCE * state + 4 * parameters,
    )


def _model(config: PretrainConfig, recipe: Recipe) -> tuple[int, str]:
    """The parameters that are trained, and whose they are. Raises: UserError where they are not known."""
    if config.initial == "parent":
        return count_parameters(parent_shape(recipe, config.needs)), "the parent's"
    return count_parameters(
        shape(recipe.model.preset, **recipe.model.overrides)
    ), recipe.model.preset
