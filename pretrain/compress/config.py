"""Recipe sections of the stages that compress a model. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from data_mix.config import BlendConfig
from pretrain.config import ScheduleConfig, TrainingConfig
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


class Space(Section):
    """The values of each width that are tried, in every combination.

    Example: Space(hidden_size=(4480, 4800, 5120), ffn=(13440, 15680), mamba_heads=(112, 128))
    """

    hidden_size: tuple[int, ...] = Field(min_length=1)
    """Channels of the embedding and the residual stream [paper: 4,480 to 5,120]."""
    ffn: tuple[int, ...] = Field(min_length=1)
    """Neurons of each feed-forward layer [paper: 13,440 to 20,480]."""
    mamba_heads: tuple[int, ...] = Field(min_length=1)
    """Heads of each Mamba layer [paper: 112 to 128]."""


class MemoryLoad(Section):
    """What must fit at once: weights, KV cache and recurrent state."""

    memory_gib: float = Field(22.06 * 0.95 - 1.3, gt=0)
    """GiB for all three [paper: 22.06 of an A10G, less 5% for the framework and 1.3 for a vision encoder]."""
    context_tokens: int = Field(131072, ge=1)
    """Tokens of a sequence [paper: 128k]."""
    batch: int = Field(1, ge=1)
    """Sequences at once [paper: 1]."""
    bytes_per_value: Literal[2, 4] = 2
    """2: bf16 [paper]; 4: fp32."""
    parameters: int | None = Field(None, ge=1)
    """Most parameters; null: any number."""


class FitConfig(Section):
    """Widths that are chosen by what fits instead of being named."""

    space: Space
    """The combinations to look at."""
    load: MemoryLoad = MemoryLoad()
    """What has to fit."""
    rank: int = Field(1, ge=1)
    """Which one of those that fit, by memory, largest first [paper: the first three are tried]."""


class PruneConfig(StageConfig):
    """Stage kind `prune`."""

    kind: Literal["prune"]
    target: TargetConfig | None = None
    """What the model is pruned to: layers first, then widths on what is left."""
    fit: FitConfig | None = None
    """In place of `target`: widths that fit a memory budget, of the layers that the model has."""
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
    random_draws: int = Field(0, ge=0)
    """Random choices of the same sizes, to compare with: is importance better than chance, before any
    training? 0: not asked."""
    held_out: BlendConfig | None = None
    """Documents to compare on: KL from the unpruned model. Needed with `random_draws`."""
    held_out_rows: int = Field(32, ge=2)
    """Rows of `row_tokens` to compare on."""

    @model_validator(mode="after")
    def _rows_to_compare_on(self) -> "PruneConfig":
        if bool(self.random_draws) != (self.held_out is not None):
            raise ValueError("give `random_draws` and `held_out` together: one is of no use alone")
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> "PruneConfig":
        if (self.target is None) == (self.fit is None):
            raise ValueError("give `target` (sizes) or `fit` (what has to fit), and not both")
        return self


class DistillScheduleConfig(ScheduleConfig):
    """As `Schedule`, with the rates of a published distillation of the 9B; the paper states none."""

    peak_lr: float = Field(1e-4, gt=0)
    """Highest learning rate [secondary: Model-Optimizer, 9B to 7B]."""
    min_lr: float = Field(1e-5, ge=0)
    """Learning rate at the end [secondary]."""
    warmup_share: float = Field(0.01, ge=0, le=1)
    """Share of tokens spent warming up."""
    decay_share: float = Field(0.99, ge=0, le=1)
    """Share of tokens spent decaying."""
    shape: Literal["linear", "minus_sqrt", "cosine"] = "cosine"
    """Shape of the decay."""


class DistillConfig(TrainingConfig):
    """Stage kind `distill`: the first of `needs` with a model is the student."""

    kind: Literal["distill"]
    teacher: str
    """Stage of `needs` whose model is the teacher; it is read and not trained."""
    rows_per_step: int = Field(768, ge=1)
    """Rows a step [secondary: Model-Optimizer, 9B to 7B]."""
    schedule: DistillScheduleConfig = DistillScheduleConfig()
    """Learning rate by tokens."""
    blend: BlendConfig
    """Sources and their weights by phase [paper: 70% SFT stage 2, 30% pretraining data]. Every token of
    a document counts, the prompt's too."""
    held_out: BlendConfig | None = None
    """Documents that no training reads, on which student and teacher are compared before and after;
    null: not compared."""
    held_out_rows: int = Field(64, ge=2)
    """Rows of `row_tokens` to compare on."""

    @model_validator(mode="after")
    def _teacher_is_needed(self) -> "DistillConfig":
        if self.teacher not in self.needs:
            raise ValueError(
                f"teacher {self.teacher!r} is not in needs ({', '.join(self.needs) or 'none'}); add it "
                "behind the student"
            )
        if self.needs[0] == self.teacher:
            raise ValueError(
                f"the first of needs is the student, and it is the teacher {self.teacher!r}; put the "
                "student's stage first"
            )
        return self
