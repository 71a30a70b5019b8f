"""Recipe section of the stage kind `reward_model`. Imports no torch."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from data_mix.columns import ColumnsConfig
from data_mix.config import SourceConfig, no_checks
from engine.config import EngineConfig
from model.lora_config import LoraConfig
from rl.preference.config import PairsValidation
from workbench.distributed.config import SpreadStage, check_adapters


class RewardModelConfig(SpreadStage):
    """Stage kind `reward_model`: sample replies and pair what a checker passes with what it fails, or take
    given pairs; train a score on the pairs (Bradley-Terry)."""

    kind: Literal["reward_model"]
    prompts: SourceConfig
    """Prompts with a check, to which replies are sampled; or pairs that are given (form: pairs), of which
    nothing is sampled: what is said of samples, engine and thinking does then not count."""
    num_prompts: int = Field(512, ge=1)
    """How many."""
    held_out: SourceConfig
    """Prompts, or given pairs, for the pair accuracy."""
    num_held_out: int = Field(200, ge=2)
    """How many."""
    validation: PairsValidation | None = None
    """Measure pairs of further held-out prompts every so many steps, keep the best checkpoint, end early;
    null: not."""
    margin_weight: float = Field(1.0, ge=0)
    """Of given pairs with a margin: the better score must be ahead by so many times the margin (Llama 2,
    arXiv 2307.09288, eq. 2). 0: margins do not count."""
    skip_bad: bool = False
    """Leave out rows that cannot be asked or checked, and count them by reason in `pairs` of the manifest.
    false: they end the run before anything is sampled."""
    thinking: list[Literal["with", "without"]] = Field(["with", "without"], min_length=1)
    """Reasoning modes in which replies are sampled."""
    samples: int = Field(8, ge=2)
    """Replies a prompt in each mode."""
    pairs_per_prompt: int = Field(4, ge=1)
    """Most pairs from one prompt."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more replies than this could not be sampled or checked."""
    lr: float = Field(1e-5, gt=0)
    """Learning rate (constant after the warm-up)."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of steps spent warming up."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs an optimizer step."""
    microbatch_pairs: int = Field(8, ge=1)
    """Pairs in one forward pass."""
    row_tokens: int = Field(4096, ge=16)
    """Longest conversation; pairs with a longer one are dropped and counted."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 master weights."""
    activations: Literal["keep", "checkpoint"] = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again."""
    lora: LoraConfig | None = None
    """Adapters; null: full fine-tuning. The head is trained in full."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(50, ge=1)
    """A resumable checkpoint every so many steps."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any further field of TRL's RewardConfig; checked by constructing it."""

    @property
    def given(self) -> bool:
        """Whether the pairs are given."""
        return isinstance(self.prompts, ColumnsConfig) and self.prompts.form == "pairs"

    @model_validator(mode="after")
    def _have_checks(self) -> Self:
        if self.lora:
            check_adapters(self.distributed, dropout=self.lora.dropout, base=self.lora.base)
        if self.given:
            other = getattr(self.held_out, "form", None)
            if other != "pairs":
                raise ValueError(
                    f"held_out is {f'of form {other!r}' if other else 'sampled'}, and prompts are given "
                    "pairs; set form: pairs in both"
                )
            return self
        for name, prompts in (("prompts", self.prompts), ("held_out", self.held_out)):
            if problem := no_checks(prompts):
                raise ValueError(f"{name}: {problem}")
        return self
