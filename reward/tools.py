"""Are the reply's tool calls the right ones? BFCL's AST checker decides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reward.bfcl import ast_checker
from reward.python_calls import json_able, python_calls
from reward.reply import CheckedReply, parse_calls
from reward.tool_schemas import bfcl_documents, documents_from_gold
from reward.verdict import Verdict, decided, failed, wrong_format
from workbench.errors import UserError, unknown_name

CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance", "relevance")
LANGUAGES = ("Python", "Java", "JavaScript")
ANSWER_FORMATS = ("exact", "possible")
SYNTAXES = ("json", "python")
Calls = list[dict[str, Any]]
_UNREADABLE = {
    "json": "the tool calls are not a JSON list of {name, arguments}",
    "python": "the answer is not a list of Python calls",
}


def check_tools(
    reply: CheckedReply,
    reference: Any,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    category: str | None = None,
    answer_format: str = "exact",
    language: str = "Python",
    syntax: str = "json",
) -> Verdict:
    """1.0 where the calls match by BFCL's rules (types, allowed values, normalised strings).

    Calls are read from <TOOLCALL>[...]</TOOLCALL>, else from an answer that is only a JSON list;
    with syntax "python" from an answer that is only a list like [f(a=1, b="x"), g()].
    reference: [{"name", "arguments"}] with the gold values (answer_format "exact"), or with the
    list of allowed values of each argument, "" meaning optional ("possible"); BFCL's own
    [{name: {argument: [allowed]}}] is read in that format too.
    tools: JSON schemas (OpenAI style or bare) or BFCL documents; without them the gold's own
    types are the schema. category: one of simple, multiple, parallel, parallel_multiple,
    irrelevance (right is: no call), relevance (right is: any call), each also with the prefix
    "live_"; by default told from the number of gold calls and tools.
    """
    for what, given, allowed in (
        ("language", language, LANGUAGES),
        ("answer_format", answer_format, ANSWER_FORMATS),
        ("syntax", syntax, SYNTAXES),
    ):
        if given not in allowed:
            raise unknown_name(what, given, allowed)
    gold = _gold_calls(reference, answer_format)
    kind = category or _category(gold, tools)
    if kind.removeprefix("live_") not in CATEGORIES:
        raise unknown_name("category of tools check", kind, CATEGORIES)
    relevance = kind.endswith("relevance")
    if not gold and not relevance:
        raise UserError(f"a tools check of category {kind!r} needs gold calls, got none")
    # Before the reply is read: what is wrong with them does not depend on it.
    documents = bfcl_documents(tools, gold) if tools and not relevance else None
    calls = _calls(reply, syntax)
    shown = json_able(calls) if syntax == "python" else calls
    if relevance:  # an unreadable call is not a call, as BFCL's runner has it
        return decided(bool(calls) != kind.endswith("irrelevance"), calls=shown)
    if calls is None:
        return wrong_format(_UNREADABLE[syntax])
    if not calls:
        return wrong_format("no tool call")
    documents = documents if documents is not None else documents_from_gold(gold)
    judged = _judge(documents, calls, gold, kind, language)
    return replace(judged, parts={**judged.parts, "calls": shown})


def _category(gold: Calls, tools: Sequence[Mapping[str, Any]] | None) -> str:
    if not gold:
        return "irrelevance"
    many_tools = tools is not None and len(tools) > 1
    if len(gold) == 1:
        return "multiple" if many_tools else "simple"
    return "parallel_multiple" if many_tools else "parallel"


def _calls(reply: CheckedReply, syntax: str) -> Calls | None:
    if syntax == "python":  # a <TOOLCALL> block is not Python
        return python_calls(reply.answer) if reply.tool_calls == [] else None
    return reply.tool_calls if reply.tool_calls != [] else _bare_calls(reply.answer)


def _bare_calls(answer: str) -> Calls | None:
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") : -3].strip()
    if not text.startswith(("[{", "{", "[ {", "[\n")):
        return []
    return parse_calls(text)


def _gold_calls(reference: Any, answer_format: str) -> Calls:
    """The reference as [{name: {argument: [allowed values]}}]."""
    if reference is None:
        return []
    if isinstance(reference, (Mapping, str)) or not isinstance(reference, Sequence):
        raise UserError(f"the reference of a tools check is a list of calls, got {reference!r}")
    return [_gold_call(call, answer_format) for call in reference]


def _gold_call(call: Any, answer_format: str) -> dict[str, Any]:
    if isinstance(call, Mapping) and isinstance(call.get("name"), str) and "arguments" in call:
        arguments = call["arguments"]
        if not isinstance(arguments, Mapping):
            raise UserError(f"the arguments of gold call {call['name']!r} are not a mapping")
        if answer_format == "exact":
            arguments = {key: [_allowed(value)] for key, value in arguments.items()}
        return {call["name"]: _checked_lists(call["name"], arguments)}
    native = isinstance(call, Mapping) and len(call) == 1 and answer_format == "possible"
    if native:
        name, arguments = next(iter(call.items()))
        if isinstance(arguments, Mapping):
            return {name: _checked_lists(name, arguments)}
    raise UserError(f"a gold call is {{'name', 'arguments'}}, got {call!r}")


def _checked_lists(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    for key, allowed in arguments.items():
        if not isinstance(allowed, list):
            raise UserError(
                f"argument {key!r} of gold call {name!r} must be the list of its allowed values "
                "(or use answer_format='exact')"
            )
    return dict(arguments)


def _allowed(value: Any) -> Any:
    """BFCL writes a mapping as {key: [allowed]}, at the top and inside a list."""
    if isinstance(value, Mapping):
        return {key: [inner] for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [_allowed(item) for item in value]
    return value


def _judge(documents: Calls, calls: Calls, gold: Calls, kind: str, language: str) -> Verdict:
    judged = _run(documents, _as_bfcl(calls), gold, kind, language)
    if judged is not None:
        reason = {"error_type": judged["error_type"]} if not judged["valid"] else {}
        return decided(bool(judged["valid"]), **reason)
    # The checker raises on values of a shape it did not foresee. Whose shape is it?
    if _run(documents, _satisfying(gold), gold, kind, language) is None:
        return failed("BFCL's checker cannot judge this reference with these tools")
    return decided(False, error_type="checker_exception")


def _run(
    documents: Calls, output: Calls, gold: Calls, kind: str, language: str
) -> dict[str, Any] | None:
    try:
        return ast_checker()(documents, output, gold, language, kind, "anneal")
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError, RecursionError):
        return None


def _as_bfcl(calls: Calls) -> Calls:
    return [{call["name"]: call["arguments"]} for call in calls]


def _satisfying(gold: Calls) -> Calls:
    """Calls that take the first allowed value of each argument."""
    return [
        {
            name: {k: _plain(v) for k, allowed in arguments.items() for v in _given(allowed)[:1]}
            for name, arguments in call.items()
        }
        for call in gold
    ]


def _given(allowed: list[Any]) -> list[Any]:
    return [value for value in allowed if value != ""]


def _plain(value: Any) -> Any:
    """The inverse of `_allowed`: {key: [allowed]} as {key: value}, at the top and in a list."""
    if isinstance(value, dict):
        return {k: v for k, allowed in value.items() for v in _given(allowed)[:1]}
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, dict) else item for item in value]
    return value
