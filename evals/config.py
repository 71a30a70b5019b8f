"""Recipe section of the stage kind `evals`. Imports no torch."""

from typing import Literal

from pydantic import Field

from workbench.engine.config import EngineConfig
from workbench.recipe import StageConfig


class EvalsConfig(StageConfig):
    """Stage kind `evals`: models x benchmarks x reasoning modes."""

    kind: Literal["evals"]
    models: list[str] = Field(default_factory=list)
    """Stages (which must be in `needs`) whose models are evaluated; empty: all of `needs`."""
    benchmarks: list[str] = Field(min_length=1)
    """Names of evals.registry."""
    thinking: list[Literal["with", "without"]] = ["with"]
    """Reasoning modes; `without` results are written as BENCHMARK@0."""
    limit: int = Field(100, ge=1)
    """Questions a benchmark."""
    samples: int = Field(1, ge=1)
    """Samples a question."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus."""
    max_tokens: int = Field(256, ge=1)
    """Longest reply, thinking included."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
