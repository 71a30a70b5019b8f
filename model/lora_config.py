"""The recipe section `lora`. Imports no torch."""

from typing import Literal

from pydantic import Field

from workbench.schema import Section


class LoraConfig(Section):
    """Low-rank adapters on every layer kind, merged into the checkpoint at the end and kept beside it in
    `adapter/`, in PEFT's format."""

    rank: int = Field(16, ge=1)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input. GRPO takes 0 alone: the policy that samples drops nothing."""
    base: Literal["float32", "bfloat16"] = "float32"
    """Type in which the frozen model is held, and in which the merged one is saved. bfloat16 takes half the
    memory; adapters stay in fp32."""
