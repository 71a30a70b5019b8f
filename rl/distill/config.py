"""Recipe section of the stage kind `distill_on_policy`. Imports no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_mix.config import SourceConfig, no_conversations
from engine.config import EngineConfig
from workbench.distributed.config import SpreadStage


class OnPolicyDistillConfig(SpreadStage):
    """Stage kind `distill_on_policy`: the student answers, the teacher says how likely it finds each token,
    and the student is moved towards the teacher there (reverse KL; arXiv 2306.13649). No reward is needed:
    where prompts have a check, it is measured."""

    kind: Literal["distill_on_policy"]
    teacher: str
    """The stage (in `needs`, after the student's) whose model teaches; it has the student's tokenizer."""
    prompts: SourceConfig
    """What the student answers to learn from."""
    num_prompts: int = Field(512, ge=1)
    """Different prompts in the pool."""
    held_out: SourceConfig
    """Prompts for the measures before and after: the checker's, where they have checks, and the KL."""
    num_held_out: int = Field(200, ge=2)
    """How many of them."""
    skip_bad: bool = False
    """Leave out rows that cannot be asked, and count them in `rows` of the manifest; false: one ends the
    run."""
    num_steps: int = Field(50, ge=1)
    """Updates of the student."""
    prompts_per_step: int = Field(16, ge=1)
    """Prompts a step."""
    samples: int = Field(1, ge=1)
    """Replies a prompt."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature. The KL is that of the whole distributions at temperature 1."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply, thinking included."""
    thinking: bool | Literal["both"] = True
    """Answer with a trace; both: half of the prompts with one and half without."""
    budgets: list[int | None] = Field([None], min_length=1)
    """Thinking budgets, dealt to the prompts of a step in turn; null: no limit. What the budget rule forces
    carries no loss; what the student writes after it does, so it learns to answer from a cut trace."""
    thinking_grace: int = Field(500, ge=0)
    """How many tokens over a budget a newline is waited for."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate (constant)."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    microbatch_tokens: int = Field(4096, ge=64)
    """Tokens of a packed row. The distributions of both models over its reply tokens are held at once."""
    mismatch_kl_limit: float = Field(0.01, gt=0)
    """The run stops where student and engine disagree by more than this (mean KL of a step)."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more of a step's replies could not be sampled than this."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(10, ge=1)
    """A resumable checkpoint every so many steps."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.distributed.context > 1:
            raise ValueError(
                f"distributed.context {self.distributed.context}: distributions of whole rows are compared "
                "here; leave it out"
            )
        if self.teacher not in self.needs:
            raise ValueError(
                f"teacher {self.teacher!r} is not in needs ({', '.join(self.needs)}); add it after the "
                "student"
            )
        for name, source in (("prompts", self.prompts), ("held_out", self.held_out)):
            if problem := no_conversations(source):
                raise ValueError(f"{name}: {problem}")
        if any(b is not None and b < 1 for b in self.budgets):
            raise ValueError(f"budgets {self.budgets}: give numbers above 0, or null for no limit")
        if any(b is not None for b in self.budgets) and not self.thinking:
            raise ValueError("budgets without a trace (thinking: false); leave one of them out")
        if self.prompts_per_step < len(self.budgets):
            raise ValueError(
                f"{len(self.budgets)} budgets and {self.prompts_per_step} prompts a step; give a step at "
                "least one prompt a budget"
            )
        return self
