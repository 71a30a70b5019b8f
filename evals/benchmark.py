"""What a benchmark is: questions, a protocol, checks, and how its numbers are summed up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from environments.protocol import Environment
from evals.sources import Data, Loading
from workbench.conversation import CheckSpec, Conversation
from workbench.records import Estimate, Sample


@dataclass(frozen=True)
class BenchmarkSampling:
    """The protocol of a benchmark. max_tokens counts thinking and answer; samples is per question.

    thinking: what the protocol asks for. source: who says so.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32_768
    samples: int = 1
    thinking: bool = True
    source: str = "model card of Nemotron Nano 2"


@dataclass(frozen=True)
class Harness:
    """Tasks of lm-eval's harness that make a benchmark.

    folders: of its tasks/ that define them; (): all, which takes ten seconds to look through.
    shots: worked examples in front; None: as the tasks say. metric: the one behind a sample's value.
    own_split: the split that a user's file replaces, for a benchmark of one task; "": none can.
    """

    tasks: tuple[str, ...]
    folders: tuple[str, ...] = ()
    shots: int | None = None
    metric: str = "acc"
    own_split: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A named set of questions.

    load: its questions. Raises: UserError that says what is missing and where to put it.
    world: the environment of a question of several replies; None for one that takes a single reply.
    drawn: how many it has where no limit is named, for one that could make questions without end.
    max_turns: most replies to such a question, where its environment has no limit of its own.
    more_checks: further checks of a reply by name, for metrics beside accuracy.
    reply_tokens: the longest reply to a question, where the protocol fixes it by task; temperature:
    likewise. harness: lm-eval's harness asks and scores, and nothing else here does. judged: a judge decides, and loading.judge says which.
    metrics(samples): more estimates, from the scored samples. `accuracy` is the plain mean unless metrics
    gives its own. headline: the metric that the benchmark is quoted by. version: raised when an
    episode would be played otherwise.
    """

    name: str
    about: str
    data: Data
    load: Callable[[Loading], list[Conversation]]
    protocol: BenchmarkSampling = BenchmarkSampling()
    more_checks: Callable[[Conversation], Mapping[str, CheckSpec]] | None = None
    metrics: Callable[[Sequence[Sample]], dict[str, Estimate]] | None = None
    world: Callable[[Conversation], Environment | None] | None = None
    drawn: int | None = None
    max_turns: int | None = None
    reply_tokens: Callable[[Conversation], int] | None = None
    temperature: Callable[[Conversation], float] | None = None
    judged: bool = False
    harness: Harness | None = None
    headline: str = "accuracy"
    version: int = 1
    paper: Mapping[str, float] = field(default_factory=dict)
    """Model -> percent, from the paper or a model card, for the same benchmark and metric."""
