"""The records of results, and their one form as JSON.

Samples of one question make a Question, questions an Estimate, two models' questions a Difference.
What is not known is NaN here and null in JSON, which has no NaN.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, PlainValidator, TypeAdapter, ValidationError

from workbench.errors import UserError
from workbench.rundir import read_json_lines

VERSION = 1
"""Of every record in a file. A reader refuses later ones; those of before it have none, and are read."""
RESULT, SAMPLES = "results.json", "samples.jsonl"
T = TypeVar("T")
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
# Not pydantic's own: replies hold lone surrogates, which a byte-level vocabulary can spell.
_Text = Annotated[str, PlainValidator(lambda value: "" if value is None else str(value))]
_Optional = Annotated[str | None, PlainValidator(lambda v: None if v is None else str(v))]
_Score = Annotated[float | None, BeforeValidator(lambda v: None if v != v or v in _ENDLESS else v)]
_ENDLESS = (math.inf, -math.inf)
_Mapping = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95% interval. n: questions, or samples where none repeat."""

    value: Number
    stderr: Number
    ci95: tuple[Number, Number]
    n: int = 0

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.ci95[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.ci95[1]

    @property
    def clear_of_zero(self) -> bool:
        """The 95% interval excludes 0."""
        return self.low > 0 or self.high < 0


UNKNOWN = Estimate(math.nan, math.nan, (math.nan, math.nan))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one reply, and of its prompt where a server has counted them."""

    thinking: int = 0
    answer: int = 0
    prompt: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply to a question, with its verdict: a line of samples.jsonl.

    value: None where generation or check failed. problem: what the question asks, the same for its
    wordings; None where it says nothing of it. adheres: whether the trace kept its budget.

    Example: Sample("math-7", value=1.0, tokens=Tokens(24, 3), well_formed=True)
    """

    id: _Text
    sample: int = 0
    problem: _Optional = None
    domain: _Text = ""
    value: _Score = None
    status: _Text = ""
    why: _Mapping = field(default_factory=dict)
    more: _Mapping = field(default_factory=dict)
    well_formed: bool = False
    adheres: bool | None = None
    finish_reason: _Text = ""
    tokens: Tokens = Tokens()
    prompt: Any = None
    thinking: _Text = ""
    answer: _Text = ""
    tool_calls: Any = None
    reference: Any = None
    sampled_at: str | None = None

    @property
    def asks(self) -> str:
        """What is asked: wordings of one problem are not independent evidence.

        >>> Sample("q7", problem="1,2").asks, Sample("q8").asks
        ('1,2', 'q8')
        """
        return self.id if self.problem is None else self.problem


@dataclass(frozen=True)
class Question:
    """One question and its samples that have a value."""

    id: str
    asks: str
    samples: tuple[Sample, ...]

    @property
    def value(self) -> float:
        """Mean value of its samples."""
        return self.mean(lambda sample: sample.value)

    def mean(self, measure: Callable[[Sample], float | None]) -> float:
        """Mean of a measure over its samples."""
        return sum(float(measure(sample) or 0) for sample in self.samples) / len(self.samples)


_TEXTS = {"prompt", "thinking", "answer", "tool_calls", "reference", "why", "more"}
Questions = dict[str, Question]
"""Question id -> question."""


def questions_of(samples: Iterable[Sample]) -> Questions:
    """The questions with a scored sample, in the order in which they first come."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.value is not None:
            groups.setdefault(sample.id, []).append(sample)
    return {key: Question(key, own[0].asks, tuple(own)) for key, own in groups.items()}


@dataclass(frozen=True)
class Difference:
    """after - before of one measure, and the two levels.

    what: the measure. against: the model or state before. unit: what n counts; "": questions. share: the measure is
    a share, written in percent. paired: over the same questions; else of independent samples.
    problems: what the questions ask, fewer than n where wordings repeat; 0 where not counted.
    failed: questions left out because a sample failed. p: two-sided; method: the test behind it.
    """

    before: Estimate
    after: Estimate
    difference: Estimate
    what: str = "accuracy"
    against: str = ""
    unit: str = ""
    share: bool = True
    paired: bool = True
    problems: int = 0
    failed: int = 0
    p: Number = math.nan
    method: str = ""
    note: str = ""

    @property
    def n(self) -> int:
        """What was compared."""
        return self.difference.n


@dataclass(frozen=True)
class ModelDifference(Difference):
    """`model` less `against` on one benchmark: a row of comparisons.json.

    benchmark: a job's folder. p_holm: p adjusted for the number of pairs in the file.
    """

    benchmark: str = ""
    model: str = ""
    p_holm: Number = math.nan


@dataclass(frozen=True)
class Result:
    """One model on one benchmark at one thinking budget: results.json.

    budget None: no limit; 0: reasoning off. n: questions. completion: which result of its stage the
    model is. failed: samples without a verdict, in no metric. sampled_at: when the first and the last
    reply was made. served: what is known of a model that another server holds. cost: what its replies
    cost, where the recipe gives a price.
    """

    model: str
    benchmark: str
    budget: int | None
    n: int
    metrics: dict[str, Estimate]
    num_samples: int = 1
    problems: int = 0
    headline: str = "accuracy"
    tokens: dict[str, Number] = field(default_factory=dict)
    well_formed_rate: float | None = None
    truncated: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    wrong_format: int = 0
    detectable: Number = math.nan
    note: str = ""
    sampling: _Mapping = field(default_factory=dict)
    data: str = ""
    checker_versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    wall_s: float = 0.0
    sampled_at: dict[str, str] | None = None
    judge: str | None = None
    model_digest: str | None = None
    completion: str | None = None
    served: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None


def to_json(record: Any) -> Any:
    """JSON-able form of a record, or of a list of them."""
    if isinstance(record, list):
        return [to_json(one) for one in record]
    return {"version": VERSION, **json.loads(_adapter(type(record)).dump_json(record))}


def from_json(kind: type[T], found: Any) -> T:
    """A record from its JSON. Raises: ValueError, in one line, where it is not one, or a later one."""
    version = found.get("version") if isinstance(found, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise ValueError(f"version {version} of {kind.__name__}: made by a later Anneal")
    try:
        record: T = _adapter(kind).validate_python(found)
        return record
    except ValueError as error:
        raise ValueError(f"no {kind.__name__} of this version: {first_problem_of(error)}") from None


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def first_problem_of(error: ValueError) -> str:
    """The first of pydantic's errors, or another error, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def read_result(path: Path) -> Result:
    """A results.json. Raises: OSError; UserError where it is none."""
    try:
        return from_json(Result, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path}: {error}; delete it, and run the evaluation again") from None


def read_list(path: Path, kind: type[T]) -> list[T]:
    """A file that holds a list of records, none where it is not there. Raises: ValueError."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [from_json(kind, one) for one in found]


def read_samples(folder: Path, *, texts: bool = False) -> Iterator[Sample]:
    """The samples beside a results.json; without their texts, which are large, unless these are asked
    for. A line that a death cut short is passed over.

    Raises: UserError naming the line that is not a sample.
    """
    path = folder / SAMPLES
    for number, row in enumerate(read_json_lines(path), 1):
        try:
            yield from_json(Sample, row if texts else {k: row[k] for k in row.keys() - _TEXTS})
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {error}; delete the line, and run the evaluation again"
            ) from None
