"""What stages on given preferences will cost. Imports no torch."""

from model.lora_config import load_of_lora
from rl.preference.config import PreferenceConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_preference(config: PreferenceConfig, recipe: Recipe) -> StagePlan:
    """Steps, and the most tokens that the rows can come to."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    sides = 2 if config.form == "pairs" else 1
    rows = round(config.samples * config.epochs)
    what = "pairs" if sides == 2 else "labelled replies"
    line = f"{config.samples:,} given {what}, {config.epochs:g} epoch(s); {config.num_held_out} held out"
    training = TrainingLoad(
        tokens=sides * rows * config.row_tokens,
        row_tokens=config.row_tokens,
        microbatch_rows=sides * config.microbatch_pairs,
        **load_of(config),
        step_tokens=sides * config.pairs_per_step * config.row_tokens,
        precision=config.precision,
        activations=config.activations,
        **load_of_lora(config.lora),
        bound=True,
    )
    return StagePlan(
        lines=(line,), steps=-(-rows // config.pairs_per_step), disk_bytes=2**28, loads=(training,)
    )
