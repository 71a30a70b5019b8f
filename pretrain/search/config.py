"""Recipe section of the stage kind `search`. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from engine.config import EngineConfig
from pretrain.compress.config import FitConfig, TargetConfig
from workbench.recipe import StageConfig
from workbench.schema import Section, StageKeys


class CandidateConfig(Section):
    """One candidate: what differs in it."""

    target: TargetConfig | None = None
    """The sizes that it is pruned to; null: it is not pruned, and differs in its distillation alone."""
    distill: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `distill` that differ, such as its blend [paper: Table 11]."""


class ThroughputConfig(Section):
    """How output tokens a second are measured, on vLLM."""

    prompt_tokens: int = Field(8192, ge=1)
    """Tokens of each prompt [paper: 8k]."""
    new_tokens: int = Field(16384, ge=1)
    """Tokens of each reply [paper: 16k]."""
    batch: int = Field(8, ge=1)
    """Prompts at once [secondary: 8 on one A10G]."""
    rounds: int = Field(3, ge=2)
    """Repetitions, from which the interval comes."""


class SearchConfig(StageConfig):
    """Stage kind `search`: candidates are pruned, distilled and scored; the stage's model is the one picked.

    In a recipe it stands for its parts: a `prune` stage NAME-CANDIDATE, a `distill` stage
    NAME-CANDIDATE-SEED for each seed, a stage NAME-evals, and the choice. Each resumes, and runs beside the
    others, like any stage. The first of `needs` with a model is cut.

    The rule: of the candidates that reach `least_tokens_per_s`, those whose accuracy is at most `within`
    below the best one's; of these the fastest, or the most accurate where throughput is not measured
    [paper: by accuracy and throughput].
    """

    kind: Literal["search"]
    teacher: str
    """The stage whose model teaches every candidate; it must be in `needs`."""
    candidates: dict[str, CandidateConfig] = Field(default_factory=dict)
    """Candidate -> what it is [paper: Table 9 by depth]."""
    fit: FitConfig | None = None
    """In place of `candidates`: the `top` combinations of widths that fit a memory budget [paper: Table 10]."""
    top: int = Field(3, ge=2)
    """How many of those that fit are tried, by memory, largest first [paper: 3]."""
    prune: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `prune` but its target, for every candidate; one core each by default."""
    distill: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `distill` but its teacher, for every candidate; one core each by default."""
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    """A distillation of each candidate for each; candidates of one seed are paired."""
    benchmarks: list[str] = Field(min_length=1)
    """What accuracy is the mean of, over all questions."""
    evals: StageKeys = Field(default_factory=dict)
    """Keys of the stage kind `evals`, such as limit and samples."""
    within: float = Field(0.005, ge=0, le=1)
    """How far below the most accurate candidate one may lie and still be picked for its speed, as a share
    [paper: not stated]."""
    least_tokens_per_s: float | None = Field(None, gt=0)
    """Output tokens a second that a candidate must reach; null: any."""
    throughput: ThroughputConfig | None = ThroughputConfig()
    """How throughput is measured, one candidate after the other; null: it is not."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run for throughput; max_model_len and max_num_seqs grow to what it asks for."""

    @model_validator(mode="after")
    def _fits(self) -> "SearchConfig":
        if self.teacher not in self.needs:
            raise ValueError(
                f"teacher {self.teacher!r} is not in needs ({', '.join(self.needs) or 'none'})"
            )
        if bool(self.candidates) == (self.fit is not None):
            raise ValueError("give `candidates` (by name) or `fit` (what has to fit), and not both")
        if self.candidates and len(self.candidates) < 2:
            raise ValueError(
                f"one candidate ({min(self.candidates)}) is not a search; give two or more"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds {list(self.seeds)} repeat; a repeated seed measures nothing more"
            )
        if self.least_tokens_per_s is not None and self.throughput is None:
            raise ValueError("least_tokens_per_s needs `throughput`, which is null")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The candidates' names; of those that fit their ranks."""
        if self.fit is None:
            return tuple(self.candidates)
        first = self.fit.rank
        return tuple(str(rank) for rank in range(first, first + self.top))
