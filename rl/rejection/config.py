"""Recipe section of the stage kind `rejection`. Imports no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_mix.config import SourceConfig, no_checks
from engine.config import EngineConfig
from rl.config import RewardConfig
from workbench.recipe import StageConfig


class RejectionConfig(StageConfig):
    """Stage kind `rejection`: sample replies to every prompt, keep the right ones, and write them as rows that
    an SFT part reads by {type: shards, stage: NAME, form: conversation}."""

    kind: Literal["rejection"]
    prompts: SourceConfig
    """What is asked; with a check, where the reward is the checker's."""
    num_prompts: int = Field(512, ge=1)
    """How many; a source that holds fewer is an error."""
    skip_bad: bool = False
    """Leave out rows that cannot be asked or checked, and count them in `prompts` of the manifest; false:
    one ends the run before anything is sampled."""
    samples: int = Field(8, ge=1)
    """Replies a prompt."""
    keep: Literal["best", "all"] = "all"
    """best: of a prompt the reply of the highest value, the shortest among equals. all: each reply of at
    least `least`, equal ones once."""
    least: float = 1.0
    """Smallest value of a reply that is kept."""
    most: int = Field(4, ge=1)
    """Most replies of one prompt, with keep: all; the shortest are kept."""
    reward: RewardConfig = RewardConfig()
    """What gives replies their value, as in grpo; null values are never kept."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability."""
    max_tokens: int = Field(512, ge=1)
    """Longest reply, thinking included; one that is cut is not kept."""
    thinking: bool | Literal["both"] = True
    """Answer with a trace; both: half of the prompts with one and half without."""
    prompts_per_shard: int = Field(256, ge=1)
    """Prompts of one file: what a kill costs at most."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more replies than this could not be sampled or checked."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.checked and (problem := no_checks(self.prompts)):
            raise ValueError(f"prompts: {problem}")
        for source in self.reward.sources().values():
            if source.model is not None and source.model not in self.needs:
                raise ValueError(f"reward.model {source.model!r} is not in needs; add it")
            if source.kind == "judge" and self.samples < 2:
                raise ValueError(
                    "samples 1 with a judge, which compares a prompt's replies with each other; give at least "
                    "2, or take kind: rubric"
                )
        return self

    @property
    def checked(self) -> bool:
        """Whether a reward comes from the prompts' own checks."""
        return any(source.kind == "checker" for source in self.reward.sources().values())
