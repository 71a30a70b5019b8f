"""Messages as data sets write them, as the one form that training reads: a key is used or refused."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from workbench.chat.template import CLOSE, OPEN, TRACE_KEYS
from workbench.conversation import Message
from workbench.errors import UserError

_KEPT = ("name", "tool_call_id", "reasoning_cut")
_READ = ("role", "content", "tool_calls", "function_call", "weight", *TRACE_KEYS, *_KEPT)
# Keys of the OpenAI format that say nothing where they are empty.
_EMPTY = ("refusal", "annotations", "audio", "id")
_SHAREGPT = {
    **{"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    **{"system": "system", "tool": "tool", "observation": "tool", "function_response": "tool"},
}


def normal_message(message: Mapping[str, Any]) -> Message:
    """One message with `reasoning_content` and `tool_calls`, whatever its data set calls them.

    Raises: UserError where it has a key that nothing reads, or a value that cannot be read.
    """
    given = {key: value for key, value in message.items() if value is not None}
    if "from" in given and "role" not in given:
        given = _from_sharegpt(given)
    unknown = [k for k, v in given.items() if k not in _READ and not (k in _EMPTY and not v)]
    if unknown:
        raise UserError(
            f"message key {unknown[0]!r} is not read; allowed: {', '.join(_READ)}; rename or remove it"
        )
    role = "tool" if given["role"] == "function" else given["role"]
    content = given.get("content")
    out: Message = {"role": role, "content": _text(content) if role != "tool" else content}
    if content is None:
        out["content"] = ""
    out |= {key: given[key] for key in _KEPT if key in given}
    if calls := _calls(given):
        out["tool_calls"] = calls
    if _weight(given.get("weight", 1)) == 0:
        out["weight"] = 0
    return _with_trace(out, given)


def said_in(messages: Iterable[Mapping[str, Any]]) -> str:
    """All that messages show: the reasoning, the content and the calls of each, in their order."""
    parts = []
    for message in messages:
        parts += [str(message.get("reasoning_content") or ""), str(message.get("content") or "")]
        parts += [json.dumps(call, sort_keys=True) for call in message.get("tool_calls") or []]
    return "\n".join(part for part in parts if part)


def without_padding(value: Any) -> Any:
    """The value without the null keys that Parquet and Arrow put into structs of one column."""
    if isinstance(value, dict):
        return {k: without_padding(v) for k, v in value.items() if v is not None}
    return [without_padding(inner) for inner in value] if isinstance(value, list) else value


def unusable_reply(reply: Message) -> str | None:
    """Why nothing can be learned from a reply; None where something can."""
    content = str(reply.get("content") or "")
    if reply.get("weight") == 0:
        return "weight 0"
    if content.lstrip().startswith(OPEN) and CLOSE not in content:
        return "trace never closed"
    if not content.rpartition(CLOSE)[2].strip() and not reply.get("tool_calls"):
        return "no reply text"
    return None


def _from_sharegpt(given: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in given.items() if k not in ("from", "value")}
    if given["from"] == "function_call":
        return {**rest, "role": "assistant", "function_call": _json(given.get("value"))}
    role = _SHAREGPT.get(given["from"])
    if role is None:
        raise UserError(f"message from {given['from']!r}; allowed: {', '.join(_SHAREGPT)}")
    return {**rest, "role": role, "content": given.get("value")}


def _text(content: Any) -> Any:
    """Parts of text as one text; anything else as it is (rendering refuses what is not text)."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        raise UserError("content has parts that are not text; only text can be trained on")
    return "".join(part["text"] for part in content)


def _calls(given: Mapping[str, Any]) -> list[Any]:
    calls = _json(given.get("tool_calls")) or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f"tool_calls {calls!r:.80} are not a list of calls")
    if call := given.get("function_call"):
        if not isinstance(call, dict):
            raise UserError(f"function_call {call!r:.80} is not a mapping {{name, arguments}}")
        calls = [*calls, {"type": "function", "function": call}]
    return calls


def _weight(value: Any) -> int:
    if isinstance(value, bool) or value not in (0, 1):
        raise UserError(f"weight {value!r}; allowed: 0 (no loss) and 1")
    return int(value)


def _with_trace(out: Message, given: Mapping[str, Any]) -> Message:
    """The trace of a reply: from one of the keys, or from the start of its content."""
    traces = {str(given[key]) for key in TRACE_KEYS if given.get(key)}
    if len(traces) > 1:
        raise UserError(f"a message with two traces ({' and '.join(TRACE_KEYS)}); keep one")
    if traces:
        return {**out, "reasoning_content": traces.pop()}
    content = out["content"]
    opened = content.lstrip() if isinstance(content, str) else ""
    if out["role"] != "assistant" or not opened.startswith(OPEN) or CLOSE not in opened:
        return out
    trace, _, answer = opened.removeprefix(OPEN).partition(CLOSE)
    cleaned = {**out, "content": answer.strip()}
    return {**cleaned, "reasoning_content": trace.strip()} if trace.strip() else cleaned


def _json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
