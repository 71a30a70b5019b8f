"""What an SFT stage will cost. Imports no torch."""

from sft.config import SftConfig
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_sft(config: SftConfig, recipe: Recipe) -> StagePlan:
    """Samples, and an upper bound of rows and steps (packing decides the exact number)."""
    samples = sum(part.samples for part in config.parts.values())
    with_copies = round(samples * (1 + config.strip_reasoning_share))
    how = "concatenated into" if config.concatenate else "one a row of at most"
    lines = [
        f"{with_copies:,} samples {how} {config.row_tokens:,} tokens, {config.epochs:g} epoch(s)"
    ]
    if config.lora:
        lines.append(f"LoRA rank {config.lora.rank} on every layer kind, merged at the end")
    if config.truncation:
        cut = config.truncation
        lines.append(
            f"{cut.share:.0%} of samples with traces cut to {cut.min_tokens}-{cut.max_tokens} tokens"
        )
    return StagePlan(lines=tuple(lines))
