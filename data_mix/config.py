"""Recipe sections about data: sources, how they are cleaned, and phased blends of them.

Imports no torch and reads no data: a source that does not exist is found when it is opened.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from data_mix.bfcl_names import BFCL_CATEGORIES, BFCL_SPLITS
from data_mix.columns import CHECKED, PREFERENCES, ColumnsConfig, FormName
from data_mix.reasoning_names import REASONING_SPLITS, REASONING_TASKS
from data_mix.where import Condition, check_conditions
from data_mix.world.blend import PRETRAINING_KINDS
from data_mix.world.generate import DOMAINS, SPLITS
from data_mix.world.house import ACTIONS
from workbench.content import Reads
from workbench.errors import unknown_name
from workbench.schema import Section

_SUM_TOLERANCE = 1e-3
Where = Annotated[dict[str, Condition], AfterValidator(check_conditions)]
"""Conditions on the columns of a row."""


class FilterConfig(Section):
    """One predicate that a document must satisfy (data_mix.filters)."""

    name: Literal["min_characters", "max_characters", "has_reply", "passes_check"]
    """min_characters, max_characters: length of all text. has_reply: ends with an assistant turn
    that is not empty. passes_check: that turn scores 1 on its own check."""
    limit: int | None = Field(None, ge=1)
    """The number of characters, for the two that count."""

    @model_validator(mode="after")
    def _limit_fits(self) -> "FilterConfig":
        counts = self.name.endswith("_characters")
        if counts != (self.limit is not None):
            raise ValueError(
                f"filter {self.name!r} {'needs a limit' if counts else 'takes no limit'}"
            )
        return self


class CleanConfig(Section):
    """What is removed from a source before it is mixed; counts go to the accounting."""

    filters: tuple[FilterConfig, ...] = ()
    """Predicates, all of which must hold."""
    dedup: Literal["none", "exact", "near"] = "none"
    """exact: same text but for case and blanks. near: also MinHash similarity of `similarity`."""
    similarity: float = Field(default=0.8, gt=0, lt=1)
    """Jaccard similarity of word 5-grams from which two documents count as near duplicates."""
    decontaminate_against: Annotated[str | None, Reads("files")] = None
    """Local JSONL of benchmark prompts (column `text`, or the user turns of conversation rows)."""
    ngram_words: int = Field(default=13, ge=3)
    """A document sharing this many words in a row with a benchmark prompt is removed. A shorter prompt
    counts as a whole, and under 8 words only where it is all that a user asks."""


class WorldSource(Section):
    """Conversations of the generated miniature world."""

    type: Literal["world"]
    domain: str = "mix"
    """A domain of the world (`Names`), or mix: all seven in the paper's SFT proportions (by samples)."""
    split: str = "train"
    """train, validation, test or rl; no problem is in two of them."""
    num_terms: int | None = Field(None, ge=2)
    """With domain math: sums of exactly this many numbers."""

    @model_validator(mode="after")
    def _names_exist(self) -> "WorldSource":
        _known("domain", self.domain, ["mix", *DOMAINS])
        _known("split", self.split, SPLITS)
        if self.num_terms is not None and self.domain != "math":
            raise ValueError(f"num_terms is for domain 'math', not for {self.domain!r}")
        return self


class PretrainingSource(Section):
    """Pretraining documents of the miniature world."""

    type: Literal["pretraining"]
    category: str
    """One of the thirteen categories of the paper's blend, or of ours: copying-few, copying-all."""

    @field_validator("category")
    @classmethod
    def _exists(cls, value: str) -> str:
        return _known("pretraining category", value, PRETRAINING_KINDS)


class LongContextSource(Section):
    """Pages of natural text with a fact in them and a question about it at the end."""

    type: Literal["long_context"]
    split: str = "train"
    """train, validation, test or rl."""
    num_characters: int = Field(4000, ge=500)
    """Length of the pages, in characters."""

    @field_validator("split")
    @classmethod
    def _exists(cls, value: str) -> str:
        return _known("split", value, SPLITS)


class HouseSource(Section):
    """Solved tasks of the miniature's house: each reply behind the tool results before it."""

    type: Literal["house"]
    split: str = "train"
    """train, validation, test or rl; no request is in two of them."""
    requests: tuple[int, int] = (1, 3)
    """Fewest and most requests of a task."""
    offered: int = Field(4, ge=1, le=10)
    """Tools on offer (more where a task needs more)."""

    @model_validator(mode="after")
    def _fits(self) -> "HouseSource":
        _known("split", self.split, SPLITS)
        if not 1 <= self.requests[0] <= self.requests[1] <= len(ACTIONS):
            raise ValueError(
                f"requests {self.requests}: give [fewest, most] between 1 and {len(ACTIONS)}"
            )
        return self


class BfclSource(Section):
    """Real requests with gold tool calls of BFCL v3, in a split of our own (data_mix.bfcl)."""

    type: Annotated[Literal["bfcl"], Reads("package", "bfcl-eval")]
    categories: tuple[str, ...] = BFCL_CATEGORIES
    """Live categories with gold calls."""
    split: str = "train"
    """train or test; no tool is offered in both."""
    max_characters: int | None = Field(None, ge=1)
    """Leave out items whose messages and tool documents are longer; null: none."""

    @model_validator(mode="after")
    def _names_exist(self) -> "BfclSource":
        for name in self.categories:
            _known("BFCL category", name, BFCL_CATEGORIES)
        _known("split", self.split, BFCL_SPLITS)
        return self


class ReasoningSource(Section):
    """Generated tasks of the package reasoning-gym whose answer is one number (data_mix.reasoning)."""

    type: Annotated[Literal["reasoning_gym"], Reads("package", "reasoning-gym")]
    tasks: dict[str, dict[str, Any]] = Field(min_length=1)
    """Task -> settings of the package's own configuration, e.g. {chain_sum: {max_digits: 1}}. Questions
    are drawn from the tasks in turn."""
    split: str = "train"
    """train or test; no problem is in both, in whatever order and wording."""
    size: int = Field(1000, ge=1)
    """How many different questions the source holds at most."""
    system: str | None = None
    """A system message put before each question; null: none (a template may have its own)."""

    @model_validator(mode="after")
    def _names_exist(self) -> "ReasoningSource":
        for name in self.tasks:
            _known("reasoning-gym task", name, REASONING_TASKS)
        _known("split", self.split, REASONING_SPLITS)
        return self


class JsonlSource(ColumnsConfig):
    """A local JSONL file."""

    type: Literal["jsonl"]
    path: Annotated[str, Reads("files")]
    """A file, or a glob that matches several; relative to the folder the command is run in. s3://, gs://
    and whatever else fsspec opens are copied into the cache first."""
    clean: CleanConfig = CleanConfig()
    """Filters, dedup and decontamination."""


class ParquetSource(ColumnsConfig):
    """A local Parquet file."""

    type: Literal["parquet"]
    path: Annotated[str, Reads("files")]
    """A file, or a glob that matches several; relative to the folder the command is run in. s3://, gs://
    and whatever else fsspec opens are copied into the cache first."""
    clean: CleanConfig = CleanConfig()
    """Filters, dedup and decontamination."""


class HubSource(ColumnsConfig):
    """A dataset on the Hugging Face hub, streamed in its own order."""

    type: Literal["hub"]
    id: Annotated[str, Reads("dataset")]
    """For example nvidia/Nemotron-Post-Training-Dataset-v2."""
    config: str | None = None
    """The dataset's configuration (subset), where it has several."""
    split: str = "train"
    """The dataset's split."""
    revision: str | None = None
    """A commit; null: the newest when the stage first starts."""
    where: Where = Field(default_factory=dict)
    """Column -> what its value must be: a value, a list of values, or a comparison such as ">=4"."""
    clean: CleanConfig = CleanConfig()
    """Filters and decontamination; dedup needs a local copy."""

    @model_validator(mode="after")
    def _no_dedup(self) -> "HubSource":
        if self.clean.dedup != "none":
            raise ValueError(
                f"a streamed hub source cannot be deduplicated (dedup: {self.clean.dedup}); "
                "download it and use type jsonl or parquet"
            )
        return self


class ShardsSource(ColumnsConfig):
    """The rows of a data stage (curate, dedup, synthesize) of this recipe."""

    type: Literal["shards"]
    stage: Annotated[str, Reads("stage")]
    """The stage, which must be in `needs`."""
    where: Where = Field(default_factory=dict)
    """Column -> what its value must be: a value, a list of values, or a comparison such as ">=4"."""
    form: FormName = "text"
    """What a row is: text for pretraining; conversation where the stage made conversations; or any other
    form of docs/recipes.md."""
    column: str = "text"
    """With messages and text: the column read."""


SourceConfig = Annotated[
    WorldSource
    | PretrainingSource
    | LongContextSource
    | HouseSource
    | BfclSource
    | ReasoningSource
    | JsonlSource
    | ParquetSource
    | HubSource
    | ShardsSource,
    Field(discriminator="type"),
]


def no_checks(source: SourceConfig) -> str | None:
    """Why no conversation of this source can have a check, or None."""
    if not isinstance(source, ColumnsConfig) or source.form in CHECKED:
        return None
    return (
        f"form {source.form!r} has no checks; use form: question with columns: {{prompt: ..., answer: ...}}"
        ", or form: conversation, whose rows have {id, domain, messages, check: {kind, reference}}"
    )


def no_conversations(source: SourceConfig) -> str | None:
    """Why this source gives neither conversations nor plain text, or None."""
    if not isinstance(source, ColumnsConfig) or source.form not in PREFERENCES:
        return None
    return f"form {source.form!r} gives preferences, which dpo, kto and reward_model read alone"


class PhaseConfig(Section):
    """The weights that hold up to a share of all tokens."""

    until: float = Field(gt=0, le=1)
    """Share of the stage's tokens at which the next phase begins [paper: 0.6, 0.9, 1.0]."""
    weights: dict[str, float]
    """Source name -> share of this phase's tokens; they sum to 1 (or to 100)."""

    @field_validator("weights")
    @classmethod
    def _sums(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of {name!r} is {weight}; it must be 0 or more")
        total = sum(weights.values())
        if abs(total - 1) > _SUM_TOLERANCE and abs(total / 100 - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the weights sum to {total:g}; make them sum to 1 (or to 100)")
        # Those that sum to 1 stay as they are: a stage reads its recipe back from JSON, and dividing
        # twice would move the last bit and with it the digest that says whether it has run.
        if abs(total - 1) <= _SUM_TOLERANCE:
            return weights
        return {name: weight / total for name, weight in weights.items()}


class BlendConfig(Section):
    """Sources and their weights by phase; weights are shares of tokens."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Name -> source."""
    phases: list[PhaseConfig] = Field(min_length=1)
    """In order; the last one ends at 1.0."""

    @model_validator(mode="after")
    def _phases_fit(self) -> "BlendConfig":
        ends = [phase.until for phase in self.phases]
        if sorted(set(ends)) != ends or ends[-1] != 1.0:
            raise ValueError(f"phases end at {ends}; `until` must rise and the last must be 1.0")
        for phase in self.phases:
            for name in phase.weights:
                _known("source in weights", name, self.sources)
        for name, source in self.sources.items():
            if problem := no_conversations(source):
                raise ValueError(f"source {name!r}: {problem}")
        return self


def _known(what: str, given: str, allowed: Collection[str]) -> str:
    """`given`, or the ValueError that pydantic turns into one line of the user's recipe."""
    if given not in allowed:
        raise ValueError(str(unknown_name(what, given, allowed)))
    return given
