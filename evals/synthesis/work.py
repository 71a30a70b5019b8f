"""What a synthesis task is: a generator that asks, reads the replies and ends with rows or reasons.

A task is written as if one seed were alone: it yields what it wants to ask, is sent the replies, and
returns an outcome for each row that it was to make. The driver (evals.synthesis.drive) plays many side by
side. A task depends on its seed and the replies alone, so that after a kill it is played again from the
replies that were kept, and only those that were in flight are asked once more.

Three endings, never mixed: a row is made; it is removed, with the gate's reason; or it failed, because a
server broke, a reply was cut or a check did not decide. Failed rows are asked again by the same command.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward.verdict import Verdict
from workbench.conversation import Message

WRITER = "writer"


@dataclass(frozen=True)
class Wanted:
    """One prompt to ask. who: a role; a role that the recipe does not name is played by the writer.
    samples: replies. thinking: whether a trace is asked for; None: as the model's settings say."""

    messages: Sequence[Message]
    who: str = WRITER
    tools: Sequence[dict[str, Any]] = ()
    samples: int = 1
    thinking: bool | None = None
    greedy: bool = False


@dataclass(frozen=True)
class Replied:
    """One reply as a checker reads it. text: the whole of it; opened: it begins inside a trace."""

    answer: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    text: str = ""
    opened: bool = False
    well_formed: bool = True


@dataclass(frozen=True)
class Lost:
    """A reply that did not come, or was cut; it says nothing about the row."""

    reason: str


Reply = Replied | Lost


class AskAgain(Exception):
    """Neither made nor removed: something broke on the way. Asked again by the same command."""


@dataclass(frozen=True)
class Made:
    """A row. `row` is a conversation's (workbench.conversation) or has a `text`."""

    row: Mapping[str, Any]


@dataclass(frozen=True)
class GateRefusal:
    """Why a gate let no row through. reason: a few words, counted. shown: what it saw, for the report."""

    reason: str
    shown: str = ""


Outcome = Made | GateRefusal
Work = Generator[Sequence[Wanted], list[list[Reply]], list[Outcome]]


@dataclass
class Piece:
    """One generator and what it is to make. id: unique in the stage; rows: how many outcomes it ends
    with. model: who plays the writer."""

    id: str
    rows: int
    model: str
    work: Work
    about: Mapping[str, Any] = field(default_factory=dict)


def whole(reply: Reply) -> Replied:
    """The reply. Raises: AskAgain where it is lost."""
    if isinstance(reply, Lost):
        raise AskAgain(reply.reason)
    return reply


def value_of(verdict: Verdict) -> float:
    """A verdict's value. Raises: AskAgain where the check did not decide."""
    if verdict.value is None:
        raise AskAgain(f"the check did not decide: {verdict.parts.get('reason', verdict.status)}")
    return verdict.value


def user(text: str) -> list[Message]:
    """A prompt of one user message."""
    return [{"role": "user", "content": text}]


def ask(text: str, **more: Any) -> Wanted:
    """One user message to be answered."""
    return Wanted(user(text), **more)
