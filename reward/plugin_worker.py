"""What runs inside a worker process for a user's own reward function. See reward.plugin."""

import asyncio
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward.verdict import Verdict
from workbench import custom_code
from workbench.custom_code import must_be_callable
from workbench.errors import one_line

_ONE = ("prompt", "reply", "reference")
_MANY = ("prompts", "replies", "references")
_TRL = "completions"
# What TRL hands to every reward function beside the columns of its data.
_TRL_EXTRAS = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


class Prompt(str):
    """The last user message; `messages` is the whole conversation."""

    messages: list[dict[str, Any]]


class ReplyText(str):
    """The whole reply as it was sampled. answer: without its trace and its calls."""

    answer: str
    thinking: str
    tool_calls: list[dict[str, Any]] | None


def describe(target: list[str]) -> dict[str, Any]:
    """How the function is to be called, or {"problem": what is wrong with it}."""
    function = load(*target)
    parameters = inspect.signature(function).parameters
    form = _form(parameters)
    if form is None:
        return {
            "problem": f"it takes ({', '.join(parameters)}); it must take (prompt, reply, reference), "
            "(prompts, replies, references), or TRL's (completions, ...)"
        }
    taken = {"one": _ONE, "many": _MANY, "trl": (_TRL, "prompts")}[form]
    options = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    options += [
        p.name
        for p in parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty and p.name not in taken
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        "form": form,
        "is_async": inspect.iscoroutinefunction(function),
        "options": None if takes_any else options,
    }


def prepare(target: list[str], stamp: int) -> None:
    """Import the function's file, before the clock of a call begins. stamp: of this version of the file."""
    load(*target)


def produce(target: list[str], path: str) -> Any:
    """What the function makes without arguments, as plain values; generators become lists."""
    made = load(*target)()
    place = path.rpartition(":")[0]

    def plain(value: Any) -> Any:
        if inspect.isgenerator(value) or isinstance(value, set | frozenset):
            return list(value)
        if inspect.isfunction(value):
            return f"{place}:{value.__name__}"
        raise TypeError(f"{_shown(value)} is not a plain value (text, number, list, mapping)")

    return json.loads(json.dumps(made, default=plain, allow_nan=False))


def score(
    target: list[str], items: list[dict[str, Any]], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """{"value", "status", "parts"} or {"error"} of each item, in order."""
    function = load(*target)
    form = _form(inspect.signature(function).parameters)
    if form == "one":
        found = _one_by_one(function, items, options)
    else:
        made = _call_many(function, str(form), items, options)
        if inspect.isawaitable(made):
            made = asyncio.run(_wait(made))
        found = _listed(made, len(items))
    return [as_verdict(value) for value in found]


def _form(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    positional = [
        p.name
        for p in parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if _TRL in parameters:
        return "trl"
    if tuple(positional[:3]) == _MANY:
        return "many"
    # By position: a function may call them as it likes.
    required = [p for p in parameters.values() if p.default is p.empty and p.name in positional]
    return "one" if len(positional) >= 3 and len(required) <= 3 else None


def _one_by_one(
    function: Callable[..., Any], items: list[dict[str, Any]], options: dict[str, Any]
) -> list[Any]:
    def call(item: dict[str, Any]) -> Any:
        return function(_prompt(item), as_reply(item), item["reference"], **options)

    if not inspect.iscoroutinefunction(function):
        return [_caught(call, item) for item in items]

    async def all_of_them() -> list[Any]:
        # Side by side: such a function waits for something, a served judge for example.
        return await asyncio.gather(*(call(item) for item in items), return_exceptions=True)

    return asyncio.run(all_of_them())


def _caught(call: Callable[[dict[str, Any]], Any], item: dict[str, Any]) -> Any:
    try:
        return call(item)
    except Exception as error:  # noqa: BLE001 - the user's code: its failure is a status
        return error


def _call_many(
    function: Callable[..., Any], form: str, items: list[dict[str, Any]], options: dict[str, Any]
) -> Any:
    references = [item["reference"] for item in items]
    if form == "many":
        prompts, replies = [_prompt(item) for item in items], [as_reply(item) for item in items]
        return function(prompts, replies, references, **options)
    parameters = inspect.signature(function).parameters
    known = {
        "prompts": [item["messages"] for item in items],
        _TRL: [[{"role": "assistant", "content": item["text"]}] for item in items],
        "reference": references,
        **dict.fromkeys(_TRL_EXTRAS),
        **options,
    }
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = known
    else:
        given = {name: value for name, value in known.items() if name in parameters}
    # A column of its data, under whatever name it has there, is the reference here.
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty:
            given.setdefault(name, references)
    return function(**given)


async def _wait(made: Any) -> Any:
    return await made


def _listed(made: Any, wanted: int) -> list[Any]:
    if hasattr(made, "tolist"):
        made = made.tolist()
    if not isinstance(made, Sequence) or isinstance(made, str | bytes):
        raise TypeError(f"it returned {_shown(made)}; it must return a list of {wanted} numbers")
    if len(made) != wanted:
        raise ValueError(f"it returned {len(made)} values for {wanted} replies")
    return list(made)


def _prompt(item: dict[str, Any]) -> Prompt:
    messages = item["messages"]
    asked = [m.get("content") for m in messages if m.get("role") == "user"]
    prompt = Prompt(asked[-1] if asked and isinstance(asked[-1], str) else "")
    prompt.messages = messages
    return prompt


def as_reply(item: dict[str, Any]) -> ReplyText:
    """The reply of {"text", "answer", "tool_calls"} as a user's code gets it."""
    reply = ReplyText(item["text"])
    reply.answer, reply.tool_calls = item["answer"], item["tool_calls"]
    head = item["text"].partition("</think>")
    reply.thinking = head[0].removeprefix("<think>").strip() if head[1] else ""
    return reply


def as_verdict(value: Any) -> dict[str, Any]:
    """{"value", "status", "parts"} of a number, a mapping or a Verdict; {"error"} of anything else."""
    if isinstance(value, BaseException):
        return {"error": one_line(value)}
    if isinstance(value, Verdict):
        if value.value is None or value.status == "wrong_format":
            return _with_parts(value.value, value.status, value.parts)
        return _number(value.value, dict(value.parts))
    if isinstance(value, Mapping):
        parts = dict(value)
        return _number(parts.pop("value", None), parts)
    return _number(value, {})


def _number(value: Any, parts: dict[str, Any]) -> dict[str, Any]:
    if (hasattr(value, "item") and getattr(value, "size", 1) in (1, None)) or hasattr(
        value, "numel"
    ):
        value = value.item()
    if not isinstance(value, int | float) or value is None:
        return {"error": f"it returned {_shown(value)}; it must return a number or a Verdict"}
    if not math.isfinite(value):
        return {"error": f"it returned {value}, which is not a number"}
    return _with_parts(float(value), "ok", parts)


def _with_parts(value: float | None, status: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    if value is None:
        return {"error": str(parts.get("reason", f"its verdict has status {status}"))}
    try:
        json.dumps(dict(parts))
    except (TypeError, ValueError):
        parts = {name: str(part)[:300] for name, part in parts.items()}
    return {"value": value, "status": status, "parts": dict(parts)}


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"


def load(place: str, name: str, folder: str) -> Callable[..., Any]:
    """The function or class that a user's file or module calls `name`. Raises: what its import raises."""
    return must_be_callable(custom_code.load(place, name, folder), place, name)
