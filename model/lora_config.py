"""The recipe section `lora`. Imports no torch."""

from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from workbench.errors import UserError
from workbench.schema import Section

Base = Literal["float32", "bfloat16", "nf4"]


class LoraConfig(Section):
    """Low-rank adapters on every layer kind, merged into the checkpoint at the end and kept beside it in
    `adapter/`, in PEFT's format."""

    rank: int = Field(16, ge=1)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input. GRPO takes 0 alone: the policy that samples drops nothing."""
    base: Base = "float32"
    """How the frozen model is held; adapters stay in fp32. float32, bfloat16: the merged one is saved in it too.
    nf4: the projections of its layers in 4 bits (package bitsandbytes; QLoRA), the rest in bfloat16; the merged
    one, in bfloat16, is what the 4 bits stand for with the adapters."""

    @property
    def dtype(self) -> str:
        """Type in which its files are read and written."""
        return "bfloat16" if self.base == "nf4" else self.base


def dtype_of(lora: LoraConfig | None) -> str:
    """Type in which a stage reads and writes the model that it trains."""
    return lora.dtype if lora else "float32"


def check_base(lora: LoraConfig | None) -> None:
    """Raises: UserError where a base is asked for whose package is not there."""
    if lora is not None and lora.base == "nf4" and find_spec("bitsandbytes") is None:
        raise UserError(
            "lora.base nf4 needs the package bitsandbytes, which is not installed; python -m pip install "
            "--no-deps -r requirements/4bit.txt, or take base: bfloat16"
        )


def load_of_lora(lora: LoraConfig | None) -> dict[str, Any]:
    """What a stage's adapters and their base are, as the fields of a `TrainingLoad`."""
    return {
        "lora_rank": lora.rank if lora else None,
        "base": lora.base if lora else "float32",
    }
