"""Recipe sections of the stages that build the base model. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_mix.config import BlendConfig
from model.fp8.config import ByPrecision, Fp8Config, Precision, check_section
from workbench.content import Reads
from workbench.distributed.config import DistributedConfig, WorkersStage, check_spread
from workbench.load import Activations
from workbench.recipe import StageConfig
from workbench.schema import Betas, Section
from workbench.validation import LossValidation


class TokenizerConfig(StageConfig):
    """Stage kind `tokenizer`."""

    kind: Literal["tokenizer"]
    from_pretrained: Annotated[str | None, Reads("tokenizer")] = None
    """Take this model's tokenizer (a hub id or a folder) and learn none. Either this or `blend`."""
    revision: str | None = None
    """Of `from_pretrained` on the hub: a commit; null: the newest when the stage first starts."""
    vocab_size: int = Field(1536, ge=300)
    """Size of the vocabulary, special tokens included."""
    sample_documents: int = Field(6000, ge=100)
    """Documents drawn from `blend` to learn the merges from."""
    blend: BlendConfig | None = None
    """What to learn the merges from; its phases are drawn from equally."""

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        if (self.blend is None) == (self.from_pretrained is None):
            raise ValueError("give either blend (to learn a tokenizer) or from_pretrained")
        return self


class ScheduleConfig(Section):
    """Warm-up, stable, decay (pretrain.schedule.WSD); shares are of all tokens."""

    peak_lr: float = Field(4.5e-4, gt=0)
    """Stable learning rate [paper: 4.5e-4]."""
    min_lr: float = Field(4.5e-6, ge=0)
    """Learning rate at the end [paper: 4.5e-6]."""
    warmup_share: float = Field(0.0004, ge=0, le=1)
    """Share of tokens spent warming up [model card: 8B of 20T]."""
    decay_share: float = Field(0.18, ge=0, le=1)
    """Share of tokens spent decaying [paper: 3.6T of 20T]."""
    shape: Literal["linear", "minus_sqrt", "cosine"] = "minus_sqrt"
    """Shape of the decay; the paper does not state it. A cosine schedule is `cosine` with a
    decay_share that leaves nothing stable."""

    @model_validator(mode="after")
    def _fits(self) -> "ScheduleConfig":
        if self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warmup_share + decay_share is {self.warmup_share + self.decay_share:.3f}; "
                "it must be at most 1"
            )
        if self.min_lr > self.peak_lr:
            raise ValueError(
                f"min_lr {self.min_lr:g} is above peak_lr {self.peak_lr:g}: the decay would raise the rate; "
                f"write min_lr, at most {self.peak_lr:g}, or a higher peak_lr"
            )
        return self


class RowsValidation(LossValidation):
    """Loss and accuracy of next tokens on documents that are not trained on."""

    blend: BlendConfig
    """Where they come from. Give other files, or another split, than the stage's own."""
    documents: int = Field(64, ge=2)
    """How many different ones, from all phases alike; each is cut to `row_tokens`."""


class TrainingConfig(ByPrecision, WorkersStage):
    """What every training on a blend has: rows, optimizer, checkpoints."""

    total_tokens: int = Field(ge=1)
    """Tokens to train on; rounded up to whole steps."""
    row_tokens: int = Field(8192, ge=8)
    """Length of a row [paper: 8192]."""
    rows_per_step: int = Field(736, ge=1)
    """Rows a step, over all workers [model card: 736]."""
    microbatch_rows: int = Field(1, ge=1)
    """Rows in one forward pass."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate by tokens."""
    betas: Betas = (0.9, 0.95)
    """Adam's betas [paper]."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay on matrices [paper]."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    precision: Precision = "bf16"
    """bf16: autocast with fp32 master weights. fp8: the same, and the layers' matrix products in FP8, by the
    card on Hopper (H100, H200), emulated to the bit on a CPU; see `fp8` and docs/fp8.md."""
    fp8: Fp8Config = Fp8Config()
    """How `precision: fp8` quantises; the defaults are the paper's."""
    threads: int = Field(2, ge=1)
    """CPU threads of the trainer; a step's microbatches share them, one thread each."""
    blend: BlendConfig
    """Sources and their weights by phase [paper: three phases, switching at 60% and 90%]."""
    checkpoint_every_steps: int = Field(50, ge=1)
    """A resumable checkpoint every so many steps."""
    log_every_steps: int = Field(1, ge=1)
    """A metrics line every so many steps."""
    validation: RowsValidation | None = None
    """Measure the loss on other documents every so many steps, keep the best checkpoint, end early; null:
    not."""
    activations: Activations = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again. offload: checkpoint, and the inputs wait in the CPU's memory."""
    distributed: DistributedConfig = DistributedConfig()
    """Several processes, which share weights, optimizer and every step's rows (strategy fsdp)."""

    @model_validator(mode="after")
    def _shares_out(self) -> "TrainingConfig":
        check_section(self.precision, self.fp8)
        spread = self.distributed
        check_spread(spread)
        if spread.on and self.quantised and self.fp8.granularity == "tensor":
            raise ValueError("fp8.granularity tensor is for comparison, in one process")
        if spread.on:
            spread.check_rows(self.rows_per_step, self.microbatch_rows)
            spread.check_row_tokens(self.row_tokens)
        return self

    @property
    def layout_free(self) -> bool:
        """One process and many continue from each other's checkpoints."""
        return self.distributed.strategy in ("none", "fsdp")

    @property
    def step_tokens(self) -> int:
        """Tokens a step."""
        return self.row_tokens * self.rows_per_step

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return -(-self.total_tokens // self.step_tokens)


class PretrainConfig(TrainingConfig):
    """Stage kind `pretrain`."""

    kind: Literal["pretrain"]
    initial: Literal["new", "parent"] = "new"
    """new: initialise the recipe's model. parent: continue from the model of a needed stage (the
    long-context phase)."""
    output_layer: Literal["random", "embeddings"] = "random"
    """What the output layer of a new model begins as. random: drawn, as the paper's. embeddings: a copy of
    the input embeddings, from which it parts in training; a model of a million parameters then learns to
    copy words that it has rarely seen (docs/LOG.md)."""

    @model_validator(mode="after")
    def _divides(self) -> "PretrainConfig":
        if self.initial == "parent" and self.output_layer != "random":
            raise ValueError(
                "output_layer is of a new model; with initial: parent the needed stage's is kept, so leave "
                "output_layer out"
            )
        self.distributed.check_rows(self.rows_per_step, self.microbatch_rows)
        return self
