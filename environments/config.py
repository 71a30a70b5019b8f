"""Recipe sections of the tool environments. Imports no torch and no environment."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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
    tools: Literal["all", "needed", "called"] = "all"
    """all: the 27 tools, some 16,000 characters. needed: those of the tables that the task is about,
    and the directory. called: those that its solution calls; then nothing can be looked up, so choose
    domains whose requests name all that is to be written (analytics)."""


class OwnTasks(Section):
    """Tasks of an environment of the user's own. See docs/environments.md."""

    type: Annotated[str, Reads("function")]
    """The class: `mine.py:World` or `package.module:World`."""
    split: str = "train"
    """Which tasks: given to the class's `tasks`. Give `held_out` another one."""
    rows: Annotated[str | None, Reads("files")] = None
    """A JSONL file of tasks, a mapping with a `prompt` on each line; null: the class has `tasks`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class. Other keys beside `type` are taken as such, too."""
    timeout_s: float = Field(10.0, gt=0)
    """Most seconds of CPU for one reply's tools, a reset or a verdict; four times that by the clock. An
    episode that overruns is stopped, and has no reward."""
    episode_s: float | None = Field(None, gt=0)
    """Most seconds that an episode may spend in the environment, by the clock; one over it has no reward."""
    memory_gb: float = Field(3.0, gt=0)
    """Address space of an episode's process, in GB."""
    result_chars: int = Field(20_000, ge=100)
    """Longest text of one tool's result; more is cut, and the text says so."""

    @model_validator(mode="before")
    @classmethod
    def _other_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        others = {k: v for k, v in values.items() if k not in cls.model_fields}
        given = values.get("options") or {}
        if not others or not isinstance(given, dict):
            return values
        known = {k: v for k, v in values.items() if k in cls.model_fields}
        return {**known, "options": {**given, **others}}


def _kind_of(value: Any) -> Any:
    """The tag of the union: a name with a colon is a class of the user's own."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return OWN if isinstance(kind, str) and ":" in kind else kind


OWN = "FILE.py:CLASS"
TasksConfig = Annotated[
    Annotated[HouseTasks, Tag("house")]
    | Annotated[BfclTasks, Tag("bfcl")]
    | Annotated[WorkplaceTasks, Tag("workplace")]
    | Annotated[OwnTasks, Tag(OWN)],
    Discriminator(_kind_of),
]


class EnvironmentSource(Section):
    """An environment's tasks as prompts: episodes of several replies, judged by how the world ends."""

    type: Literal["environment"]
    tasks: TasksConfig
    """Which environment, and which of its tasks."""


PromptsConfig = Annotated[SourceConfig | EnvironmentSource, Field(discriminator="type")]
