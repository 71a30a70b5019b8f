"""Recipe sections of the tool environments. Imports no torch and no environment."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_mix.world.generate import SPLITS
from workbench.errors import unknown_name
from workbench.schema import Section


class HouseTasks(Section):
    """Tasks of the miniature's house."""

    type: Literal["house"]
    split: str = "rl"
    """train, validation, test or rl; no request is in two of them."""
    requests: tuple[int, int] = (1, 3)
    """Fewest and most requests of a task."""
    offered: int = Field(4, ge=1, le=10)
    """Tools on offer (more where a task needs more)."""

    @model_validator(mode="after")
    def _fits(self) -> "HouseTasks":
        if self.split not in SPLITS:
            raise ValueError(str(unknown_name("split", self.split, SPLITS)))
        if not 1 <= self.requests[0] <= self.requests[1] <= 5:
            raise ValueError(f"requests {self.requests}: give [fewest, most] between 1 and 5")
        return self


class BfclTasks(Section):
    """Multi-turn tasks of BFCL over its eight simulated APIs (needs bfcl-eval)."""

    type: Literal["bfcl"]
    category: Literal["base", "miss_func", "miss_param", "long_context"] = "base"
    """BFCL's own categories, 200 tasks each."""
    half: Literal["train", "test"] = "train"
    """By a hash of the task's number: the same half in all four categories, which share tasks."""
    distractors: int | None = Field(None, ge=0)
    """Tools on offer besides those of the task's own solution; null: all of its APIs' tools."""


TasksConfig = Annotated[HouseTasks | BfclTasks, Field(discriminator="type")]
