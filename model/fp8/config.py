"""The recipe section `fp8`: how `precision: fp8` quantises. Imports no torch."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from workbench.schema import Section

Precision = Literal["fp32", "bf16", "fp8"]
TILE = 128
"""Values that share a scale: a tile of one row, a block of so many rows of a weight [paper]."""
ENDS = 4
"""Matrix products at each end of the model that stay in bf16 [paper]."""


class Fp8Config(Section):
    """How `precision: fp8` quantises: the layers' matrix products, forward and both backward, in E4M3 with
    sums in fp32. Master weights, their gradients and the optimizer stay in fp32."""

    ends: int = Field(ENDS, ge=0)
    """Matrix products at each end of the model that are not quantised [paper: the first and last four]."""
    scales: Literal["pow2", "fp32"] = "pow2"
    """pow2: powers of two, whose products round nothing [the default of Transformer Engine; the paper does
    not state it]. fp32: the largest value of a block becomes 448 exactly."""
    granularity: Literal["blocks", "tensor"] = "blocks"
    """blocks: a scale for 128 x 128 weights, and for 128 values of one token [paper]. tensor: a scale a
    matrix, for comparison alone: packed documents then share scales and are not isolated, which the run's
    manifest says."""
    others: Literal["bf16", "fp32"] = "bf16"
    """What all that is not quantised is computed in; fp32 is for CPUs on which bf16 is slow."""


class ByPrecision:
    """What `precision` and `fp8` of a stage say."""

    if TYPE_CHECKING:  # the fields are each kind's own
        precision: Precision
        fp8: Fp8Config

    @property
    def computed(self) -> Literal["fp32", "bf16"]:
        """The type of autocast: that of everything which is not in FP8."""
        return self.fp8.others if self.precision == "fp8" else self.precision

    @property
    def quantised(self) -> Fp8Config | None:
        """How projections are quantised; None: not."""
        return self.fp8 if self.precision == "fp8" else None


def check_section(precision: Precision, fp8: Fp8Config) -> None:
    """Raises: ValueError where the section is given and nothing reads it."""
    if precision != "fp8" and fp8 != Fp8Config():
        raise ValueError(f"the section fp8 needs precision: fp8, not {precision}")
