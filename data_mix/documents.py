"""What flows through mixing: a plain text or a conversation, and how rows become one."""

import json
from collections.abc import Mapping
from typing import Any

from data_mix.config import ColumnsConfig
from workbench.conversation import Conversation
from workbench.errors import UserError

Document = str | Conversation


def text_of(document: Document) -> str:
    """All text a document shows: every turn, reasoning included; used by filters and dedup."""
    if isinstance(document, str):
        return document
    parts = []
    for message in document.messages:
        parts += [str(message.get("reasoning_content") or ""), str(message.get("content") or "")]
        parts += [json.dumps(call, sort_keys=True) for call in message.get("tool_calls") or []]
    return "\n".join(part for part in parts if part)


def document_of(row: Mapping[str, Any], columns: ColumnsConfig, *, where: str) -> Document:
    """Read one row. Raises UserError naming source, row and column where it cannot be read."""
    if columns.form == "conversation":
        try:
            _must_be_messages(row["messages"])
            return Conversation.from_row(dict(row), where=where)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where} is no conversation row ({_named(row)}{type(error).__name__}: {error}); it "
                "needs domain and messages, a check needs kind and reference and may have options; or set "
                "form: messages"
            ) from None
    value = _column(row, columns.column, where)
    if columns.form == "text":
        if not isinstance(value, str):
            raise UserError(f"{where}: column {columns.column!r} holds no text but {value!r:.60}")
        return value
    messages = _from_json(value)
    if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
        raise UserError(
            f"{where}: column {columns.column!r} is no list of {{role, content}}; "
            "set form: text for plain text"
        )
    tools = _column(row, columns.tools_column, where) if columns.tools_column else None
    return Conversation(
        id=str(row.get("id") or row.get("uuid") or where),
        domain=columns.domain,
        messages=[_with_reasoning(message) for message in messages],
        tools=_from_json(tools) or None,
    )


def _named(row: Mapping[str, Any]) -> str:
    return f"id {row['id']!r:.60}; " if row.get("id") is not None else ""


def _column(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise UserError(f"{where} has no column {name!r}; its columns are: {', '.join(row)}")
    return row[name]


def _from_json(value: Any) -> Any:
    """The value of a JSON text; anything else, and text that is no JSON, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _must_be_messages(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(m, dict) and "role" in m for m in value):
        raise TypeError("messages is no list of {role, content}")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Move a reply's leading <think>...</think> to reasoning_content; drop Parquet's null keys."""
    kept = {key: value for key, value in message.items() if value is not None}
    content = kept.get("content")
    if kept["role"] != "assistant" or not isinstance(content, str):
        return kept
    opened = content.lstrip()
    if not opened.startswith("<think>") or "</think>" not in opened:
        return kept
    reasoning, _, answer = opened.removeprefix("<think>").partition("</think>")
    stripped = reasoning.strip()
    cleaned = {**kept, "content": answer.strip()}
    return {**cleaned, "reasoning_content": stripped} if stripped else cleaned
