"""The columns of shards: declared before a row is written. Imports nothing heavy."""

from typing import Any

Row = dict[str, Any]
"""A row: column -> value. `id` is text of its own in every row; `text` or `messages` holds what it says."""
Columns = dict[str, str]
"""Column -> its type: `text`, `whole`, `number`, `flag`, `json` (any value, written as JSON text; what JSON has no word for as its text) or
`messages` (a conversation)."""

CONVERSATION: Columns = {
    **{"id": "text", "domain": "text", "messages": "messages", "tools": "json", "check": "json"},
    **{"thinking": "flag", "problem": "text"},
}
"""The columns of `form: conversation`, which SFT and RL read."""


def needs_text(columns: Columns, *, what: str = "text") -> None:
    """Raises: ValueError where there is no such column of text."""
    if columns.get(what) != "text":
        raise ValueError(f"needs a column {what!r} of text; there are: {', '.join(columns)}")
