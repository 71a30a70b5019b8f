"""What the stages that compress a model will cost. Imports no torch."""

from model.presets import HybridShape
from model.sizes import parameters
from pretrain.compress.config import DistillConfig, PruneConfig, TargetConfig
from pretrain.compress.target import WIDTHS, check_target, planned_shape, target_of
from pretrain.plan import CHECKPOINTS_AT_ONCE, STATE_BYTES, training_load
from workbench.distributed.config import why_not
from workbench.errors import UserError
from workbench.load import Beside, ScoringLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_prune(config: PruneConfig, recipe: Recipe) -> StagePlan:
    """Calibration tokens and forward passes over them. Raises: UserError for an impossible target."""
    before = planned_shape(recipe, config.needs)
    rows = f"{config.samples:,} rows x {config.row_tokens:,} = {config.samples * config.row_tokens:,} tokens"
    target = config.target if before is None else target_of(config, before)
    if target is None:
        return StagePlan((f"to what fits of the parent's layers; {rows}",), disk_bytes=2**28)
    sizes = ", ".join(
        f"{key} {value:,}" for key, value in target.model_dump().items() if value is not None
    )
    lines = [f"to {sizes}; {rows}"]
    if before is not None:
        check_target(target, before, config.removable)
        if target.layers is not None:
            removed = len(before.pattern) - target.layers
            lines.append(
                f"depth: {removed} of {len(before.pattern)} layers go, one a round; a round is about "
                f"{2 + len(before.pattern) // 2} forward passes over the rows"
            )
    if config.random_draws:
        lines.append(
            f"compared with {config.random_draws} random choices on {config.held_out_rows} held-out rows, "
            "three models beside each other"
        )
    load = ScoringLoad(
        tokens=round(_passes(target, before) * config.samples * config.row_tokens)
        + _chance_tokens(config, target),
        row_tokens=config.row_tokens,
        microbatch_rows=config.microbatch_rows,
        gpus=config.gpus,
    )
    return StagePlan(lines=tuple(lines), disk_bytes=2**28, loads=(load,))


def _chance_tokens(config: PruneConfig, target: TargetConfig) -> int:
    """Of the comparison with chance: two models on the held-out rows for each choice, and the scores of the
    widths that random layers leave."""
    if not config.random_draws:
        return 0
    rows = 2 * (config.random_draws + 1) * config.held_out_rows
    if any(getattr(target, key) is not None for key in WIDTHS):
        rows += config.samples * (1 if target.layers is None else config.random_draws)
    return rows * config.row_tokens


def _passes(target: TargetConfig, before: HybridShape | None) -> float:
    """Forward passes over the rows: a round of depth scores every layer from its place on."""
    widths = any(getattr(target, key) is not None for key in WIDTHS)
    if before is None or target.layers is None:
        return float(widths)
    rounds = range(target.layers + 1, len(before.pattern) + 1)
    return widths + sum(2 + layers / 2 for layers in rounds)


def plan_distill(config: DistillConfig, recipe: Recipe) -> StagePlan:
    """Steps, tokens and FLOPs: 6 N D of the student and 2 N D of the teacher's forward passes."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    tokens = config.num_steps * config.step_tokens
    lines = [
        f"{config.num_steps:,} steps x {config.rows_per_step} rows x {config.row_tokens:,} tokens = "
        f"{tokens:,} tokens, teacher {config.teacher}"
    ]
    student = planned_shape(recipe, config.needs)
    teacher = planned_shape(recipe, [config.teacher])
    disk = 2**28
    if student is not None and teacher is not None:
        small, large = parameters(student), parameters(teacher)
        flops = (6 * small + 2 * large) * tokens
        lines.append(
            f"about {small:,} parameters learn from {large:,} ({recipe.model.preset}), {flops:.3g} FLOPs"
        )
        disk = CHECKPOINTS_AT_ONCE * STATE_BYTES * small + 4 * small
    # As the stage reads its teacher.
    beside = Beside(config.teacher, "bfloat16" if config.computed == "bf16" else "float32")
    return StagePlan(
        lines=tuple(lines),
        steps=config.num_steps,
        tokens=tokens,
        disk_bytes=disk,
        loads=(training_load(config, tokens, beside),),
    )
