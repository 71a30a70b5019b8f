"""Recipe sections of the stage kinds `offline_dpo` and `kto`. Imports no torch."""

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from data_mix.columns import ColumnsConfig
from data_mix.config import HubSource, JsonlSource, ParquetSource
from model.lora_config import LoraConfig
from workbench.distributed.config import SpreadStage, check_adapters
from workbench.errors import unknown_name
from workbench.validation import LossValidation

GivenSource = JsonlSource | ParquetSource | HubSource

DpoLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class PairsValidation(LossValidation):
    """Loss and accuracy on further rows of `held_out`, while the policy (or reward model) is trained."""

    num_rows: int = Field(64, ge=2)
    """How many rows (reward_model: prompts) behind the `num_held_out`. Those of a prompt that the measure
    before and after asks are left out: the best checkpoint is not chosen by them."""


class PreferenceConfig(SpreadStage):
    """What both kinds have."""

    form: ClassVar[str]

    source: GivenSource = Field(discriminator="type")
    """Where the rows come from: pairs for offline_dpo (form: pairs), labelled replies for kto (form:
    labelled)."""
    samples: int = Field(ge=1)
    """How many rows to take; a source that holds fewer is an error."""
    held_out: GivenSource = Field(discriminator="type")
    """Rows of other prompts, for the measure before and after."""
    num_held_out: int = Field(200, ge=2)
    """How many of them."""
    validation: PairsValidation | None = None
    """Measure further held-out rows every so many steps, keep the best checkpoint, end early; null: not."""
    skip_bad: bool = False
    """Leave out rows that teach nothing (equal sides, an empty reply, a tie, what cannot be read) and count
    them by reason in `rows` of the manifest. false: one ends the run."""
    thinking: bool = True
    """Replies stand behind an open trace, where the row does not say otherwise. false: reasoning is off, and
    traces are left out."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the policy that the stage starts from."""
    lr: float = Field(1e-6, gt=0)
    """Learning rate (constant after the warm-up)."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of steps spent warming up."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the rows."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs (kto: replies) an optimizer step."""
    microbatch_pairs: int = Field(4, ge=1)
    """Pairs (kto: replies) in one forward pass."""
    row_tokens: int = Field(4096, ge=16)
    """Longest prompt with its reply, in tokens; longer ones are dropped and counted."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 master weights."""
    activations: Literal["keep", "checkpoint"] = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again."""
    lora: LoraConfig | None = None
    """Adapters; null: full fine-tuning. The reference is the model that they start from."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(50, ge=1)
    """A resumable checkpoint every so many steps."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any further field of TRL's DPOConfig or KTOConfig; checked by constructing it."""

    @model_validator(mode="after")
    def _has_form(self) -> Self:
        if self.lora:
            check_adapters(self.distributed, dropout=self.lora.dropout, base=self.lora.base)
        for name, source in (("source", self.source), ("held_out", self.held_out)):
            if isinstance(source, ColumnsConfig) and source.form != self.form:
                raise ValueError(
                    f"{name} is of form {source.form!r}; this stage reads form: {self.form}"
                )
        return self


class OfflineDpoConfig(PreferenceConfig):
    """Stage kind `offline_dpo`: learn from given pairs of a chosen and a rejected reply. TRL's trainer and
    losses; `dpo` samples its pairs itself."""

    form: ClassVar[str] = "pairs"

    kind: Literal["offline_dpo"]
    loss: DpoLoss | list[DpoLoss] = "sigmoid"
    """TRL's loss: sigmoid (DPO, arXiv 2305.18290), ipo (2310.12036), hinge (SLiC), robust, apo_zero, ...; a
    list adds them up, weighted by trl: {loss_weights: [...]}."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs that are thought to be the wrong way round (robust; not every loss reads it)."""

    @field_validator("loss", mode="before")
    @classmethod
    def _is_trls(cls, value: Any) -> Any:
        for name in value if isinstance(value, list) else [value]:
            if name not in get_args(DpoLoss):
                raise ValueError(str(unknown_name("loss", str(name), get_args(DpoLoss))))
        return value


class KtoConfig(PreferenceConfig):
    """Stage kind `kto`: learn from given replies that are each good or bad (arXiv 2402.01306)."""

    form: ClassVar[str] = "labelled"

    kind: Literal["kto"]
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """TRL's loss. kto takes the policy's drift on mismatched replies of a microbatch as its zero."""
    good_weight: float = Field(1.0, gt=0)
    """Weight of good replies. Where labels are unequal in number, weigh the rarer ones up."""
    bad_weight: float = Field(1.0, gt=0)
    """Weight of bad replies."""

    @model_validator(mode="after")
    def _mismatches(self) -> Self:
        if self.loss == "kto" and self.microbatch_pairs < 2:
            raise ValueError(
                "microbatch_pairs 1: the loss kto pairs each prompt with another reply of its "
                "microbatch; give 2 or more, or loss: apo_zero_unpaired"
            )
        return self
