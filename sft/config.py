"""Recipe section of the stage kind `sft`. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from budget.told import ToldConfig
from data_mix.config import no_conversations
from environments.config import EnvironmentSource, PromptsConfig
from model.fp8.config import ByPrecision, Fp8Config, Precision, check_section
from model.lora_config import LoraConfig
from workbench.distributed.config import DistributedConfig, WorkersStage, check_adapters
from workbench.load import Activations
from workbench.schema import Betas, Section
from workbench.validation import LossValidation


class PartConfig(Section):
    """One part of the training set."""

    source: PromptsConfig
    """Where its conversations come from; of an environment, its own solutions (with reasoning off)."""
    samples: int = Field(ge=1)
    """How many to take, each another one; a source that holds fewer is an error."""
    reasoning: Literal["trace", "answer"] = "trace"
    """Where the reasoning stands: in the trace, as the source has it; or, with reasoning off, written
    out in the answer, before its own text (as assistants without a trace solve problems)."""
    loss: Literal["last", "all"] = "last"
    """last: a dialogue trains its last reply. all: each of its replies, as a sample that ends there, since
    older replies stand in a prompt without their traces."""

    @model_validator(mode="after")
    def _gives_conversations(self) -> "PartConfig":
        if isinstance(self.source, EnvironmentSource):
            return self
        if problem := no_conversations(self.source):
            raise ValueError(problem)
        return self


class TruncationConfig(Section):
    """Stage 3: traces cut abruptly while the original answer stays (budget.truncation)."""

    share: float = Field(0.05, ge=0, le=1)
    """Share of the whole training set that is truncated [paper: about 5% of the data]."""
    min_tokens: int = Field(1024, ge=0)
    """Shortest trace kept, in tokens [paper: 1-2k]."""
    max_tokens: int = Field(2048, ge=1)
    """Longest trace kept, in tokens."""


class SftValidation(LossValidation):
    """Loss and token accuracy on conversations that are not trained on."""

    parts: dict[str, PartConfig] = Field(default_factory=dict)
    """Where they come from, as the stage's `parts`. Either this or `share`."""
    share: float | None = Field(None, gt=0, lt=1)
    """Share of the stage's own conversations that is held out instead, by problem: what asks the same is
    on one side."""

    @model_validator(mode="after")
    def _one_origin(self) -> "SftValidation":
        if bool(self.parts) == (self.share is not None):
            raise ValueError(
                "give either parts (conversations of its own) or share (of the stage's)"
            )
        return self


class SftConfig(ByPrecision, WorkersStage):
    """Stage kind `sft`."""

    kind: Literal["sft"]
    parts: dict[str, PartConfig] = Field(min_length=1)
    """Name -> source and number of samples."""
    strip_reasoning_share: float = Field(0.0, ge=0, le=1)
    """Share of prompts repeated with an empty trace [paper, stage 1: about 10%]."""
    truncation: TruncationConfig | None = None
    """Truncated traces (stage 3); null: none."""
    told: ToldConfig | None = None
    """Tell each sample with a trace, cut ones too, the smallest of these budgets that its trace keeps (one
    that is longer than all: none), so that a model knows what the words mean; null: not."""
    concatenate: bool = False
    """Pack samples into rows of `row_tokens` (stage 1); false: one sample a row (stage 2)."""
    row_tokens: int = Field(131072, ge=8)
    """Row length, and the longest sample, in tokens [paper, stage 1: about 128k]."""
    drop_longer: bool = False
    """Drop samples longer than the row (counted); false: they are an error."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training set."""
    rows_per_step: int = Field(64, ge=1)
    """Rows an optimizer step, over all workers."""
    microbatch_rows: int = Field(1, ge=1)
    """Rows in one forward pass."""
    lr: float = Field(5e-6, gt=0)
    """Peak learning rate."""
    lr_scheduler: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    """Schedule after the warm-up."""
    warmup_share: float = Field(0.03, ge=0, lt=1)
    """Share of steps spent warming up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decay."""
    betas: Betas = (0.9, 0.98)
    """Adam's betas."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    sample_tokens: int | None = Field(None, ge=1)
    """Mean length of a sample, for the plan alone; null: the plan gives the most it can be."""
    activations: Activations = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again. offload: checkpoint, and the inputs wait in the CPU's memory."""
    distributed: DistributedConfig = DistributedConfig()
    """Several processes: data parallel, optionally sharded, rows shared too (fsdp)."""
    precision: Precision = "bf16"
    """bf16: autocast with fp32 master weights. fp8: the same, and the layers' matrix products in FP8, by the
    card on Hopper (H100, H200), emulated to the bit on a CPU; see `fp8` and docs/fp8.md."""
    fp8: Fp8Config = Fp8Config()
    """How `precision: fp8` quantises; the defaults are the paper's."""
    threads: int = Field(2, ge=1)
    """CPU threads of the trainer."""
    data_workers: int = Field(1, ge=1)
    """Processes that render and tokenise the samples, before the training; 1: the stage's own. The rows
    are the same for any number."""
    router_loss: float = Field(0.0, ge=0)
    """Of a model with experts: coefficient of the loss that has its routers choose them evenly (Switch
    Transformer's, of each document by itself). Padding is a document too."""
    lora: LoraConfig | None = None
    """Adapters; null: full fine-tuning."""
    checkpoint_every_steps: int = Field(100, ge=1)
    """A resumable checkpoint every so many steps."""
    validation: SftValidation | None = None
    """Measure the loss on other conversations every so many steps, keep the best checkpoint, end early;
    null: not."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any further field of TRL's SFTConfig; checked by constructing it."""

    @model_validator(mode="after")
    def _fits(self) -> "SftConfig":
        self.distributed.check_rows(self.rows_per_step, self.microbatch_rows)
        check_section(self.precision, self.fp8)
        if self.precision == "fp8" and self.fp8.granularity == "tensor":
            raise ValueError("fp8.granularity tensor is for comparisons of pretrain; use blocks")
        if self.precision == "fp8" and self.lora:
            raise ValueError("lora with precision fp8: FP8 trains all weights; use precision: bf16")
        if self.precision == "fp8" and self.distributed.strategy in ("zero2", "zero3"):
            raise ValueError(
                f"{self.distributed.strategy} with precision fp8: its weights are bf16, not fp32; use fsdp or ddp"
            )
        if self.lora and self.distributed.strategy == "zero3":
            raise ValueError("lora with zero3: adapters are small; use ddp or zero2")
        if self.validation is not None and self.distributed.strategy in ("zero2", "zero3"):
            raise ValueError(
                f"validation with {self.distributed.strategy}: DeepSpeed's checkpoints are its own; use ddp "
                "or fsdp"
            )
        if self.lora:
            check_adapters(self.distributed, dropout=self.lora.dropout, base=self.lora.base)
        if self.distributed.sharded and self.router_loss and self.microbatch_rows > 1:
            raise ValueError(
                f"router_loss with fsdp and microbatch_rows {self.microbatch_rows}: its padding would be "
                "routed too, in each layout another; set microbatch_rows: 1"
            )
        if self.distributed.sharded and self.trl:
            raise ValueError("trl with fsdp: these are TRL's options; use ddp or zero2")
        return self
