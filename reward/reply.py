"""What a checker may see of a reply: the answer and the tool calls, never the thinking."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.chat import parse

_CALL_OPEN = "<TOOLCALL>"
_THINK_CLOSE = "</think>"


@dataclass(frozen=True)
class CheckedReply:
    """The checkable side of a reply.

    answer: the text after thinking, without tool calls; "" where thinking never ended.
    tool_calls: [{"name": str, "arguments": dict}], [] where there is none, None where there is a
    block that cannot be read (or more than one).
    """

    answer: str
    tool_calls: list[dict[str, Any]] | None
    text: str = ""
    """The whole reply, its thinking included: for a function of the user's own alone."""
    prompt: tuple[Mapping[str, Any], ...] = ()
    """The messages that were asked: the same."""


def read_reply(text: str, *, thinking_opened: bool = False) -> CheckedReply:
    """Strip thinking from a full model reply and read its tool calls.

    A reply says itself whether it thought: by `</think>`, or by opening `<think>`. One that does
    neither is all answer, unless thinking_opened: the prompt ended inside an open `<think>`, so
    such a reply is all thinking.
    """
    reply = parse(text, thinking=thinking_opened or _THINK_CLOSE in text)
    if _CALL_OPEN in reply.answer:
        return CheckedReply(reply.answer, None)
    if reply.tool_calls is not None:
        return CheckedReply(reply.answer, reply.tool_calls)
    # `parse` gives None both for no call and for one it cannot read; the reply's text tells.
    after_thinking = text.partition(_THINK_CLOSE)[2] if _THINK_CLOSE in text else text
    finished = _THINK_CLOSE in text or not reply.thinking
    return CheckedReply(reply.answer, None if finished and _CALL_OPEN in after_thinking else [])


def parse_calls(block: str) -> list[dict[str, Any]] | None:
    """Read a JSON list (or a single object) of calls; None where it is not that.

    `arguments` may be an object or, as in the OpenAI format, a string that holds one.
    """
    try:
        data = json.loads(block)
    except (ValueError, RecursionError):
        return None
    items = data if isinstance(data, list) else [data]
    calls = [_call(item) for item in items]
    return [call for call in calls if call is not None] if None not in calls else None


def _call(item: Any) -> dict[str, Any] | None:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return {"name": item["name"], "arguments": arguments}
