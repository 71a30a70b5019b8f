"""Conversations as strict servers take them: names, ids and arguments of tool calls."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.errors import UserError

_LONGEST_NAME = 64
_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{_LONGEST_NAME}}}")
_ODD = re.compile(r"[^a-zA-Z0-9_-]")


def sent_names(names: Iterable[str]) -> dict[str, str]:
    """Function name -> the name that is sent for it, `^[a-zA-Z0-9_-]{1,64}$`, each of its own.

    >>> sent_names(["math.add", "math_add"])
    {'math_add': 'math_add', 'math.add': 'math_add_2'}
    """
    wanted = list(dict.fromkeys(names))
    sent = {name: name for name in wanted if _NAME.fullmatch(name)}
    taken = set(sent)
    for name in wanted:
        if name in sent:
            continue
        plain = _ODD.sub("_", name)[:_LONGEST_NAME] or "function"
        made, number = plain, 2
        while made in taken:
            made = f"{plain[: _LONGEST_NAME - 1 - len(str(number))]}_{number}"
            number += 1
        sent[name] = made
        taken.add(made)
    return sent


def named_in(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Every function that a conversation offers or calls."""
    offered = [str(tool.get("function", tool)["name"]) for tool in tools]
    return offered + [_inner(call)["name"] for m in messages for call in m.get("tool_calls") or []]


def sent_tools(
    tools: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Function schemas, bare or wrapped, as requests carry them."""
    schemas = [tool.get("function", tool) for tool in tools]
    return [
        {"type": "function", "function": {**schema, "name": names[str(schema["name"])]}}
        for schema in schemas
    ]


def sent_messages(
    messages: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Messages as requests carry them: every call has an id of its own, every result the id of its
    call. Traces of earlier turns are left out, as chat templates do.

    Raises: UserError where a call's arguments are not a JSON object.
    """
    sent: list[dict[str, Any]] = []
    open_calls: list[tuple[Any, str]] = []  # (the id in the data, the id that is sent)
    number = 0
    for message in messages:
        role, content = str(message["role"]), message.get("content")
        if role == "tool":
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            own = message.get("tool_call_id")
            place = next((i for i, (there, _) in enumerate(open_calls) if own and there == own), 0)
            if open_calls:
                _, id = open_calls.pop(place)
            else:  # a result that nothing asked for
                id, number = _id(number), number + 1
            sent.append({"role": role, "tool_call_id": id, "content": text})
            continue
        whole = {"role": role, "content": "" if content is None else content}
        if message.get("tool_calls"):
            open_calls, calls = [], []
            for call in message["tool_calls"]:
                open_calls.append((call.get("id"), _id(number)))
                calls.append(_call(call, _id(number), names))
                number += 1
            whole["tool_calls"] = calls
        sent.append(whole)
    return sent


def _id(number: int) -> str:
    return f"call{number:05d}"  # nine letters and digits: one family of servers takes nothing else


def _inner(call: Mapping[str, Any]) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = call.get("function", call)
    return inner


def _call(call: Mapping[str, Any], id: str, names: Mapping[str, str]) -> dict[str, Any]:
    inner = _inner(call)
    name, arguments = str(inner["name"]), inner.get("arguments")
    try:
        found = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments or {}
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        found, text = None, ""
    if not isinstance(found, dict):
        raise UserError(f"tool call {name!r}: arguments {arguments!r:.200} are not a JSON object")
    return {"id": id, "type": "function", "function": {"name": names[name], "arguments": text}}
