"""Predicates by name: which documents of a source are kept."""

from collections.abc import Callable

from data_mix.config import FilterConfig
from data_mix.documents import Document, conversations_in, text_of
from reward import check
from workbench.chat.template import tool_calls_block
from workbench.conversation import Conversation
from workbench.errors import UserError

Predicate = Callable[[Document], bool]


def predicate_of(config: FilterConfig) -> Predicate:
    """The predicate a recipe names."""
    limit = config.limit or 0
    if config.name == "min_characters":
        return lambda document: len(text_of(document)) >= limit
    if config.name == "max_characters":
        return lambda document: len(text_of(document)) <= limit
    return has_reply if config.name == "has_reply" else passes_check


def has_reply(document: Document) -> bool:
    """Ends with an assistant turn that says or calls something (of a pair both); plain text never does."""
    replies = [conversation.reply for conversation in conversations_in(document)]
    return bool(replies) and all(
        reply and (str(reply.get("content") or "").strip() or reply.get("tool_calls"))
        for reply in replies
    )


def passes_check(document: Document) -> bool:
    """The reply scores 1 on the document's own check.

    Raises UserError where there is no check, and RuntimeError where the checker itself failed: that
    is not a verdict on the document.
    """
    if not isinstance(document, Conversation) or document.check is None:
        name = "a plain text" if isinstance(document, str) else document.id
        raise UserError(f"filter 'passes_check': {name} has no check; remove the filter")
    if not has_reply(document):
        return False
    spec = document.check
    verdict = check(spec.kind, reply_text(document), spec.reference, **spec.options)
    if verdict.value is None and verdict.status != "wrong_format":
        raise RuntimeError(f"the check of {document.id} failed: {verdict.status} {verdict.parts}")
    return verdict.value == 1.0


def reply_text(document: Conversation) -> str:
    """The answer with its tool calls as text, the thinking left out: what a checker reads."""
    reply = document.reply or {}
    return str(reply.get("content") or "") + tool_calls_block(reply.get("tool_calls"))
