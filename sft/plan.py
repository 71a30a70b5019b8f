"""What an SFT stage will cost. Imports no torch."""

from data_mix.sizes import most_tokens
from environments.config import EnvironmentSource
from model.lora_config import load_of_lora
from sft.config import SftConfig
from workbench.distributed.config import load_of, why_not
from workbench.errors import UserError
from workbench.load import TrainingLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_sft(config: SftConfig, recipe: Recipe) -> StagePlan:
    """Samples, and an upper bound of rows and steps (packing decides the exact number)."""
    if refusal := why_not(config.distributed, recipe):
        raise UserError(refusal)
    samples = sum(part.samples for part in config.parts.values())
    with_copies = round(samples * (1 + config.strip_reasoning_share))
    how = "concatenated into" if config.concatenate else "one a row of at most"
    lines = [
        f"{with_copies:,} samples {how} {config.row_tokens:,} tokens, {config.epochs:g} epoch(s)"
    ]
    if any(part.loss == "all" for part in config.parts.values()):
        lines.append("loss: all makes a sample of every reply, so there are more than these")
    if config.lora:
        lines.append(f"LoRA rank {config.lora.rank} on every layer kind, merged at the end")
    if config.truncation:
        cut = config.truncation
        lines.append(
            f"{cut.share:.0%} of samples with traces cut to {cut.min_tokens}-{cut.max_tokens} tokens"
        )
    if config.told:
        lines.append(
            f"samples are told the smallest budget that they keep, of {config.told.budgets}"
        )
    return StagePlan(lines=tuple(lines), loads=(_load(config, with_copies),))


def _load(config: SftConfig, samples: int) -> TrainingLoad:
    """The stage's tokens: samples of the stated mean length, or the most that they can be."""
    mean = config.sample_tokens or _longest_mean(config)
    return TrainingLoad(
        tokens=round(samples * config.epochs * mean),
        row_tokens=config.row_tokens,
        microbatch_rows=config.microbatch_rows,
        document_tokens=round(mean),
        **load_of(config),
        step_tokens=config.rows_per_step * config.row_tokens,
        precision=config.precision,
        fp8_ends=config.fp8.ends,
        activations=config.activations,
        **load_of_lora(config.lora),
        bound=config.sample_tokens is None,
    )


def _longest_mean(config: SftConfig) -> float:
    """The longest that samples can be on average, in tokens: a byte each, or a whole row."""
    total = 0.0
    for part in config.parts.values():
        source = part.source
        # An environment's are played to be known.
        known = None if isinstance(source, EnvironmentSource) else most_tokens(source, part.samples)
        rows = float(part.samples * config.row_tokens)
        total += rows if known is None else min(known, rows)
    return total / sum(part.samples for part in config.parts.values())
