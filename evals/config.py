"""Recipe section of the stage kind `evals`. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field

from budget.told import Instruction
from engine.config import EngineConfig
from engine.judge_client import JudgeConfig
from environments.config import TasksConfig
from workbench.recipe import StageConfig
from workbench.schema import Section


class OneBenchmark(Section):
    """What differs for one benchmark; null: as for all."""

    limit: int | None = Field(None, ge=1)
    """Questions (of each category, where it has any)."""
    samples: int | None = Field(None, ge=1)
    """Samples a question."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest reply, thinking included."""


class EvalsConfig(StageConfig):
    """Stage kind `evals`: models x benchmarks x reasoning modes and thinking budgets.

    What is null follows each benchmark's protocol (evals.registry).
    """

    SAME_RESULT: ClassVar[frozenset[str]] = StageConfig.SAME_RESULT | {"max_failed_share"}

    kind: Literal["evals"]
    models: list[str] = Field(default_factory=list)
    """Stages (which must be in `needs`) and names of the recipe's `models`; empty: all of `needs`."""
    benchmarks: list[str] = Field(min_length=1)
    """Names that `python scripts/sweep.py --list` prints."""
    environments: dict[str, TasksConfig] = Field(default_factory=dict)
    """Name -> an environment's tasks, one of your own too: a benchmark of that name for `benchmarks`.
    Tasks of one seed, the same for every model; episodes of at most 12 replies."""
    thinking: list[Literal["with", "without", "protocol"]] = ["with"]
    """Reasoning modes; `without` results are written as BENCHMARK@0. `protocol`: as each benchmark
    asks."""
    budgets: list[int] = Field(default_factory=list)
    """Thinking budgets in tokens, beside the modes; results are written as BENCHMARK@BUDGET. 0 is
    reasoning off."""
    thinking_grace: int = Field(500, ge=0)
    """How many tokens over the budget a newline is waited for."""
    told: Instruction | None = None
    """An instruction with {budget}, put at the end of the last user message: models are told the budgets,
    and nothing enforces them. Results are written as BENCHMARK-told. null: budgets are enforced."""
    limit: int | None = Field(None, ge=1)
    """Questions a benchmark (of each category, where it has any); null: all, and 100 tasks of an
    environment that draws them (one whose tasks are a file's rows has an end)."""
    samples: int | None = Field(None, ge=1)
    """Samples a question; null: as the protocol says."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature; 0 is greedy; null: as the protocol says."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus; null: as the protocol says."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest reply, thinking included; null: as the protocol says."""
    by_benchmark: dict[str, OneBenchmark] = Field(default_factory=dict)
    """Benchmark -> what differs for it, e.g. {ruler-2k: {limit: 10}}; wins over the fields above."""
    judge: JudgeConfig | None = None
    """The judge of benchmarks that need one (hle, arena-hard, mt-bench); null: none."""
    max_failed_share: float = Field(0.2, ge=0, le=1)
    """The stage fails where more of its samples than this have no verdict; run again, it asks for those
    alone. 1: never. scripts/sweep.py does not look at it."""
    data: str = "data/evals"
    """Folder with the data of benchmarks that no installed package has."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run; max_model_len grows to what the benchmarks ask for."""

    @property
    def served(self) -> tuple[str, ...]:
        """See `StageConfig`."""
        return tuple(name for name in self.models if name not in self.needs)
