"""Recipe section of the stage kind `grpo`. Imports no torch."""

from typing import Literal

from pydantic import Field

from data_mix.config import SourceConfig
from workbench.engine.config import EngineConfig
from workbench.recipe import StageConfig
from workbench.schema import Section


class LossConfig(Section):
    """The policy loss; GRPO, Dr. GRPO, DAPO and GSPO are settings of one function (rl.loss)."""

    clip_low: float = Field(0.2, gt=0, lt=1)
    """Ratios below 1 - clip_low are clipped."""
    clip_high: float = Field(0.2, gt=0)
    """Ratios above 1 + clip_high are clipped (DAPO: 0.28)."""
    ratio: Literal["token", "sequence"] = "token"
    """token: GRPO. sequence: GSPO, the geometric mean over the reply."""
    aggregate: Literal["token", "sequence", "constant"] = "token"
    """token: mean over the batch's tokens (DAPO). sequence: mean of reply means (GRPO).
    constant: sum over `max_tokens` (Dr. GRPO)."""
    correction_cap: float = Field(2.0, gt=0)
    """Largest weight of a token's engine-to-trainer importance correction."""


class GrpoConfig(StageConfig):
    """Stage kind `grpo`."""

    kind: Literal["grpo"]
    prompts: SourceConfig
    """Where prompts with a check come from."""
    num_prompts: int = Field(512, ge=1)
    """Different prompts in the pool."""
    held_out: SourceConfig
    """Prompts for the reward before and after."""
    num_held_out: int = Field(200, ge=2)
    """How many of them."""
    num_steps: int = Field(20, ge=1)
    """Policy updates."""
    prompts_per_step: int = Field(16, ge=1)
    """Prompts a step."""
    group_size: int = Field(8, ge=2)
    """Replies a prompt."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the policy that is trained is the one at this temperature."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply."""
    thinking: bool = True
    """Roll out with a trace."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate (constant)."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    advantage: Literal["group", "mean", "leave_one_out"] = "group"
    """group: (r - mean) / std. mean: r - mean (Dr. GRPO). leave_one_out: against the others' mean."""
    loss: LossConfig = LossConfig()
    """The policy loss."""
    microbatch_tokens: int = Field(8192, ge=64)
    """Tokens of a packed row; replies with their prompts are packed, never padded."""
    mismatch_kl_limit: float = Field(0.01, gt=0)
    """The run stops where trainer and engine disagree by more than this (mean KL of a step)."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more of a step's samples failed than this."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(5, ge=1)
    """A resumable checkpoint every so many steps."""
