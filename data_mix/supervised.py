"""Conversations from a source, where plain text would be a mistake."""

from data_mix.config import SourceConfig
from data_mix.sources import open_source
from workbench.conversation import Conversation
from workbench.errors import UserError


def take_conversations(
    source: SourceConfig, count: int, *, name: str, seed: int
) -> list[Conversation]:
    """`count` conversations. Raises: UserError where the source gives plain text."""
    out = []
    for document in open_source(source, name=name, seed=seed).take(count):
        if not isinstance(document, Conversation):
            raise UserError(f"source {name!r} gives plain text; this stage needs conversations")
        out.append(document)
    return out
