"""Recipe sections of the stages that compress a model. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from data_mix.config import BlendConfig
from workbench.recipe import StageConfig
from workbench.schema import Section


class TargetConfig(Section):
    """The sizes to prune to; null: stays as it is."""

    layers: int | None = Field(None, ge=1)
    """Layers in all, of every kind [paper: 62 to 56]."""
    hidden_size: int | None = Field(None, ge=1)
    """Channels of the embedding and the residual stream [paper: 5,120 to 4,480]."""
    ffn: int | None = Field(None, ge=1)
    """Neurons of each feed-forward layer [paper: 20,480 to 15,680]."""
    mamba_heads: int | None = Field(None, ge=1)
    """Heads of each Mamba layer, a multiple of its groups [paper: 112, 120 or all 128; all were best]."""
    mamba_head_dim: int | None = Field(None, ge=1)
    """Channels of each Mamba head, the same ones in all heads of a layer."""

    @model_validator(mode="after")
    def _something(self) -> "TargetConfig":
        if not any(v is not None for v in self.model_dump().values()):
            raise ValueError(
                f"no size to prune to; give one of: {', '.join(self.__class__.model_fields)}"
            )
        return self


class PruneConfig(StageConfig):
    """Stage kind `prune`."""

    kind: Literal["prune"]
    target: TargetConfig
    """What the model is pruned to: layers first, then widths on what is left."""
    blend: BlendConfig
    """Calibration data, cut into rows as in pretraining; conversations are rendered."""
    samples: int = Field(1024, ge=1)
    """Calibration rows [paper: 1,024 samples]."""
    row_tokens: int = Field(8192, ge=8)
    """Length of a calibration row."""
    microbatch_rows: int = Field(1, ge=1)
    """Rows in one forward pass."""
    removable: list[Literal["M", "-", "*"]] = Field(["M", "-"], min_length=1)
    """Kinds of layers that may go (M: Mamba-2, -: feed-forward, *: attention). The default keeps every
    attention layer [paper: their number is fixed]."""
    rescale_norms: bool = True
    """Multiply the norms' weights so that the kept channels keep their size: a norm divides by the mean
    over its channels, which changes with those that go. false: cut only [paper: not stated]."""
    threads: int = Field(2, ge=1)
    """CPU threads of the forward passes."""
