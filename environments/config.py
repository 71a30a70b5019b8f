"""Recipe sections of the tool environments. Imports no torch and no environment."""

from typing import Annotated, Literal

from pydantic import Field

from data_mix.config import HouseSource, SourceConfig
from workbench.content import Reads
from workbench.schema import Section


class HouseTasks(HouseSource):
    """Tasks of the miniature's house."""

    split: str = "rl"
    """train, validation, test or rl; no request is in two of them."""


class BfclTasks(Section):
    """Multi-turn tasks of BFCL over its eight simulated APIs (needs bfcl-eval)."""

    type: Annotated[Literal["bfcl"], Reads("package", "bfcl-eval")]
    category: Literal["base", "miss_func", "miss_param", "long_context"] = "base"
    """BFCL's own categories, 200 tasks each."""
    half: Literal["train", "test"] = "train"
    """By a hash of the task's number: the same half in all four categories, which share tasks."""
    distractors: int | None = Field(None, ge=0)
    """Tools on offer besides those of the task's own solution; null: all of its APIs' tools."""


class WorkplaceTasks(Section):
    """Tasks over the five tables of nemo-gym's workplace assistant (scripts/setup.sh evals)."""

    type: Literal["workplace"]
    half: Literal["train", "test"] = "train"
    """Every person, title, customer, date and text belongs to one half; a task uses those of its own."""
    domains: tuple[Literal["email", "calendar", "analytics", "projects", "customers", "several"], ...] = (
        "email", "calendar", "analytics", "projects", "customers", "several",
    )  # fmt: skip
    """Kinds of request; several: two tables in one request."""
    tools: Literal["all", "needed"] = "all"
    """all: the 27 tools, some 16,000 characters. needed: those of the tables that the task is about,
    and the directory."""


TasksConfig = Annotated[HouseTasks | BfclTasks | WorkplaceTasks, Field(discriminator="type")]


class EnvironmentSource(Section):
    """An environment's tasks as prompts: episodes of several replies, judged by how the world ends."""

    type: Literal["environment"]
    tasks: TasksConfig
    """Which environment, and which of its tasks."""


PromptsConfig = Annotated[SourceConfig | EnvironmentSource, Field(discriminator="type")]
