"""Recipe section of the stage kind `dpo`. Imports no torch."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from engine.config import EngineConfig
from environments.config import TasksConfig
from model.lora_config import LoraConfig
from workbench.distributed.config import SpreadStage, check_adapters


class DpoConfig(SpreadStage):
    """Stage kind `dpo`: sample on every task, pair successes with failures, train, repeat.

    The paper reports neither the number of rounds, nor beta, learning rate or pairs a prompt: the
    defaults here are ours.
    """

    kind: Literal["dpo"]
    tasks: TasksConfig
    """What the policy plays to learn from."""
    num_tasks: int = Field(256, ge=1)
    """Different tasks, the same in every round."""
    held_out: TasksConfig
    """Tasks for the success rate before and after."""
    num_held_out: int = Field(200, ge=2)
    """How many of them."""
    skip_bad: bool = False
    """Leave out tasks whose first prompt has no room for a reply in the engine, and count them in `tasks`
    of the manifest. false: one ends the run before anything is played."""
    held_out_samples: int = Field(1, ge=1)
    """Episodes of each."""
    rounds: int = Field(2, ge=1)
    """Times of sampling with the newest policy and training on the result."""
    samples: int = Field(8, ge=2)
    """Episodes of a task in each round."""
    pairs_per_task: int = Field(4, ge=1)
    """Most pairs of a success and a failure from one task in a round."""
    max_turns: int = Field(6, ge=1)
    """Most replies of an episode."""
    max_episode_tokens: int | None = Field(None, ge=1)
    """Most tokens that an episode samples in all its replies; one that needs more has failed."""
    history: Literal["template", "kept"] = "template"
    """How an episode's older replies stand before the next one: as the chat template writes them, or the
    very tokens that were sampled, traces included."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    thinking: bool = True
    """Play with a trace."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more of a round's episodes broke than this."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the round's starting policy."""
    lr: float = Field(1e-6, gt=0)
    """Learning rate (constant after the warm-up)."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of a round's steps spent warming up."""
    epochs: float = Field(1.0, gt=0)
    """Passes over a round's pairs."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs an optimizer step."""
    microbatch_pairs: int = Field(4, ge=1)
    """Pairs in one forward pass."""
    row_tokens: int = Field(8192, ge=64)
    """Longest episode trained on, all its turns with their prompts; longer ones are dropped and
    counted."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 master weights."""
    activations: Literal["keep", "checkpoint"] = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again."""
    lora: LoraConfig | None = None
    """Adapters; null: full fine-tuning. The reference of each round is the model that its adapters start from."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(20, ge=1)
    """A resumable checkpoint every so many steps."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any further field of TRL's DPOConfig; checked by constructing it. Example: {loss_type:
    [sigmoid, sft], loss_weights: [1.0, 0.2]}."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lora:
            check_adapters(self.distributed, dropout=self.lora.dropout, base=self.lora.base)
        return self
