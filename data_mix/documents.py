"""What flows through mixing: plain texts, conversations and preferences, and how rows become one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data_mix.columns import ColumnsConfig, fields_of
from data_mix.config import HubSource, ParquetSource, ShardsSource
from data_mix.forms import READERS, from_json, normal_messages
from data_mix.messages import said_in, without_padding
from data_mix.preferences import Labelled, Preference
from workbench.conversation import Conversation
from workbench.errors import UserError

Document = str | Conversation | Preference | Labelled


def conversations_in(document: Document) -> list[Conversation]:
    """What is said in it: none in a plain text, two in a pair, whose prompt is the same."""
    if isinstance(document, str):
        return []
    return [document] if isinstance(document, Conversation) else document.conversations


def trainable(document: Document) -> str | Conversation:
    """The document where it is a text or a conversation. Raises: UserError for preferences."""
    if isinstance(document, str | Conversation):
        return document
    raise UserError(f"{document.id!r:.80} is a preference, of which pretraining learns nothing")


def text_of(document: Document) -> str:
    """All text a document shows: every turn, reasoning included; used by filters and dedup."""
    if isinstance(document, str):
        return document
    first, *others = conversations_in(document)
    return said_in([*first.messages, *(other.messages[-1] for other in others)])


def document_of(row: Mapping[str, Any], columns: ColumnsConfig, *, where: str) -> Document:
    """Read one row. Raises UserError naming source, row and column where it cannot be read."""
    if isinstance(columns, ParquetSource | HubSource | ShardsSource):
        row = {key: without_padding(value) for key, value in row.items()}
    if columns.form == "conversation":
        return _conversation_of(row, columns, where)
    given = fields_of(row, columns, where=where)
    if columns.form == "text":
        text = given["text"]
        if not isinstance(text, str):
            name = columns.column_of()["text"][0]
            raise UserError(f"{where}: column {name!r} holds no text but {text!r:.60}")
        return text
    if not given.get("id") and "id" not in columns.columns:
        given["id"] = row.get("uuid")
    return READERS[columns.form](given, columns, where)


def _named(row: Mapping[str, Any]) -> str:
    return f"id {row['id']!r:.60}; " if row.get("id") is not None else ""


def _conversation_of(row: Mapping[str, Any], columns: ColumnsConfig, where: str) -> Conversation:
    if columns.columns:
        row = fields_of(row, columns, where=where)
    try:
        _must_be_messages(row["messages"])
        nested = {key: from_json(row.get(key)) for key in ("tools", "check")}
        read = Conversation.from_row({**row, **nested}, where=where)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} is not a conversation row ({_named(row)}{type(error).__name__}: {error}); it "
            "needs domain and messages, a check needs kind and reference and may have options; or set "
            "form: messages"
        ) from None
    return replace(read, messages=normal_messages(read.messages, where))


def _must_be_messages(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(m, dict) and "role" in m for m in value):
        raise TypeError("messages is not a list of {role, content}")
