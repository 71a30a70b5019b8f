"""The tool-call checker on hand-made calls."""

import json
from typing import Any

import pytest

from reward import check
from workbench.errors import UserError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "limits": {"type": "array", "items": {"type": "number"}},
                "options": {"type": "object"},
                "note": {"type": ["string", "null"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}, "required": []}}


def _text(*calls: tuple[str, dict[str, Any]]) -> str:
    return f"<TOOLCALL>{json.dumps([{'name': n, 'arguments': a} for n, a in calls])}</TOOLCALL>"


def _gold(*calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": n, "arguments": a} for n, a in calls]


FULL = ("get_weather", {"city": "Köln", "days": 3, "limits": [1, 2.5], "options": {"unit": "C"}})


@pytest.mark.parametrize("tools", [None, [WEATHER], [WEATHER, CLOCK]])
def test_exact_gold_passes_with_and_without_schemas(tools: Any) -> None:
    text = "<think>look it up</think>\n\n" + _text(FULL)
    assert check("tools", text, _gold(FULL), tools=tools).value == 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"city": "Bonn"},
        {"city": "Köln", "days": "3"},
        {"city": "Köln", "days": 4},
        {"city": "Köln", "days": 3, "limits": [1, 2.5]},
        {"city": "Köln", "days": 3, "limits": [2.5, 1], "options": {"unit": "C"}},
        {"city": "Köln", "days": 3, "limits": [1, 2.5], "options": {"unit": "F"}},
        {"city": "Köln", "days": 3, "limits": [1, 2.5], "options": {}},
        {"city": "Köln", "days": 3, "limits": [1, 2.5], "options": "C"},
        {"city": "Köln", "days": 3, "limits": [1, 2.5], "options": {"unit": "C"}, "note": "x"},
    ],
)
def test_wrong_arguments_fail(arguments: dict[str, Any]) -> None:
    verdict = check("tools", _text(("get_weather", arguments)), _gold(FULL), tools=[WEATHER])
    assert (verdict.value, verdict.status) == (0.0, "ok")


def test_parallel_calls_match_in_any_order_and_number() -> None:
    one: tuple[str, dict[str, Any]] = ("get_weather", {"city": "Bonn"})
    two: tuple[str, dict[str, Any]] = ("clock", {})
    for gold in (_gold(one, two), _gold(two, one)):
        assert check("tools", _text(one, two), gold, tools=[WEATHER, CLOCK]).value == 1.0
    assert check("tools", _text(one), _gold(one, two), tools=[WEATHER, CLOCK]).value == 0.0
    assert check("tools", _text(one, one), _gold(one, two), tools=[WEATHER, CLOCK]).value == 0.0


def test_possible_answers_allow_alternatives_and_absence() -> None:
    gold = _gold(("get_weather", {"city": ["Bonn", "Bonn, DE"], "days": [3, ""]}))
    for arguments in ({"city": "Bonn"}, {"city": "Bonn, DE", "days": 3}):
        text = _text(("get_weather", arguments))
        assert check("tools", text, gold, tools=[WEATHER], answer_format="possible").value == 1.0


def test_plain_json_list_and_openai_arguments_are_read() -> None:
    gold = _gold(("get_weather", {"city": "Bonn"}))
    calls = [{"function": {"name": "get_weather", "arguments": '{"city": "Bonn"}'}}]
    assert check("tools", json.dumps(calls), gold, tools=[WEATHER]).value == 1.0
    assert check("tools", f"```json\n{json.dumps(calls)}\n```", gold, tools=[WEATHER]).value == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "It rains in Bonn.",
        "",
        "<TOOLCALL>[{'name': 'get_weather'}]</TOOLCALL>",
        '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Bonn"}}]',
        '<TOOLCALL>[{"arguments": {}}]</TOOLCALL>',
        "<TOOLCALL>" + "[" * 100_000 + "</TOOLCALL>",
        '<think>x <TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Bonn"}}]</TOOLCALL>',
        _text(("clock", {})) + _text(("get_weather", {"city": "Bonn"})),
    ],
)
def test_unreadable_or_absent_calls_are_wrong_format(text: str) -> None:
    gold = _gold(("get_weather", {"city": "Bonn"}))
    verdict = check("tools", text, gold, tools=[WEATHER])
    assert (verdict.value, verdict.status) == (0.0, "wrong_format")


def test_an_exception_of_the_checker_is_the_replys_fault_unless_gold_raises_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(documents: Any, output: Any, *rest: Any) -> dict[str, Any]:
        if output[0]["f"]["x"] in broken:
            raise TypeError("unforeseen shape")
        return {"valid": True}

    monkeypatch.setattr("reward.tools.ast_checker", lambda: raising)
    broken = [3]
    verdict = check("tools", _text(("f", {"x": 3})), _gold(("f", {"x": 1})))
    assert (verdict.value, verdict.status) == (0.0, "ok")
    broken = [3, 1]
    verdict = check("tools", _text(("f", {"x": 3})), _gold(("f", {"x": 1})))
    assert (verdict.value, verdict.status) == (None, "error")


def test_model_text_is_never_evaluated() -> None:
    gold = _gold(("f", {"x": "1"}))
    verdict = check("tools", "[f(x=__import__('os').abort())]", gold)
    assert verdict.status == "wrong_format"


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("get_weather", {}, "is a list of calls"),
        ([{"name": "f"}], {}, "a gold call is"),
        ([{"name": "f", "arguments": {"a": 1}}], {"answer_format": "possible"}, "allowed values"),
        ([{"name": "f", "arguments": {}}], {"category": "paralel"}, "did you mean 'parallel'"),
        ([{"name": "f", "arguments": {}}], {"tools": [WEATHER, CLOCK]}, "not among the tools"),
        ([], {"category": "simple"}, "needs gold calls"),
        ([], {"langage": "Java"}, "did you mean 'language'"),
    ],
)
def test_mistakes_of_the_caller_are_named(
    reference: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check("tools", _text(("f", {})), reference, **options)
