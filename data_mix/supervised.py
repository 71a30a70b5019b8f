"""Conversations from a source, where plain text would be a mistake."""

from collections.abc import Iterator
from typing import NamedTuple

from data_mix.config import SourceConfig
from data_mix.documents import Document
from data_mix.sources import Source, open_source
from workbench.conversation import Conversation
from workbench.errors import UserError


def take_conversations(
    source: SourceConfig, count: int, *, name: str, seed: int
) -> list[Conversation]:
    """`count` conversations. Raises: UserError where the source gives plain text."""
    return list(each_conversation(source, count, name=name, seed=seed))


def each_conversation(
    source: SourceConfig, count: int, *, name: str, seed: int
) -> Iterator[Conversation]:
    """The same one after another, without holding them all."""
    for document in open_source(source, name=name, seed=seed).each(count):
        if not isinstance(document, Conversation):
            raise _no_conversation(name, document)
        yield document


def _no_conversation(name: str, document: Document) -> UserError:
    what = "plain text" if isinstance(document, str) else "preferences"
    return UserError(f"source {name!r} gives {what}; this stage needs conversations")


class Drawn(NamedTuple):
    """A row as it was drawn. conversation: None where it is none, and `problem` says why."""

    conversation: Conversation | None
    place: str
    problem: str = ""


def look_at(source: Source, count: int) -> Iterator[Drawn]:
    """The conversations that `take_conversations` gives, with their places; unreadable rows of a source
    that was opened leniently stand among them. Raises: UserError for plain text, or too few rows."""
    for document, place in source.look(count):
        if isinstance(document, UserError):
            yield Drawn(None, place, str(document))
        elif not isinstance(document, Conversation):
            raise _no_conversation(source.name, document)
        else:
            yield Drawn(document, place)
