"""What a benchmark is: questions, a protocol, checks, and how its numbers are summed up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evals.sources import Loading
from reward import Verdict
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation
from workbench.statistics import Estimate

Row = Mapping[str, Any]
"""A line of samples.jsonl."""


@dataclass(frozen=True)
class Sampled:
    """The protocol of a benchmark. max_tokens counts thinking and answer; samples is per question.

    thinking: what the protocol asks for. source: who says so.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32_768
    samples: int = 1
    thinking: bool = True
    source: str = "model card of Nemotron Nano 2"


class Episode(Protocol):
    """One sample of a question that takes several replies."""

    def ask(self) -> Conversation | None:
        """What to send next; None once the episode is over."""
        ...

    def answer(self, reply: Reply) -> None:
        """Take the model's reply to what was asked."""
        ...

    def verdict(self) -> Verdict:
        """What the episode came to."""
        ...


@dataclass(frozen=True)
class Benchmark:
    """A named set of questions.

    load: its questions. Raises: UserError that says what is missing and where to put it.
    episode: how a question of several replies is played; None for one that takes a single reply.
    more_checks: further checks of a reply by name, for metrics beside accuracy.
    reply_tokens: the longest reply to a question, where the protocol fixes it by task.
    metrics(rows): more estimates, from the scored rows. `accuracy` is the plain mean unless metrics
    gives its own. headline: the metric that the benchmark is quoted by.
    """

    name: str
    about: str
    data: str
    load: Callable[[Loading], list[Conversation]]
    protocol: Sampled = Sampled()
    more_checks: Callable[[Conversation], Mapping[str, CheckSpec]] | None = None
    metrics: Callable[[Sequence[Row]], dict[str, Estimate]] | None = None
    episode: Callable[[Conversation], Episode | None] | None = None
    reply_tokens: Callable[[Conversation], int] | None = None
    headline: str = "accuracy"
    paper: Mapping[str, float] = field(default_factory=dict)
    """Model -> percent, from the paper or a model card, for the same benchmark and metric."""
