"""Our tool calls in vLLM's server: whole replies, and streams cut at every place."""

import json
from itertools import pairwise
from typing import Any

import pytest

pytestmark = pytest.mark.integration

CALLS = [{"name": "find", "arguments": {"city": "Paris <b>", "days": 2}}, {"name": "stop", "arguments": {}}]  # fmt: skip
BLOCK = f"<TOOLCALL>{json.dumps(CALLS)}</TOOLCALL>"


def parser() -> Any:
    from vllm.tool_parsers.abstract_tool_parser import ToolParserManager

    from engine.tool_parser import NAME

    return ToolParserManager.get_tool_parser(NAME)(object())


def plain(calls: Any) -> list[dict[str, Any]]:
    return [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls]


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        (BLOCK, CALLS, None),
        (f"I look.\n{BLOCK}\n", CALLS, "I look."),
        (f"a <TOOLCALL> thought\n</think>\n\n{BLOCK}", CALLS, "a <TOOLCALL> thought\n</think>"),
        ("No call.", [], "No call."),
        ("<TOOLCALL>[{]</TOOLCALL>", [], "<TOOLCALL>[{]</TOOLCALL>"),
    ],
)
def test_a_reply_whole_and_in_pieces(text: str, calls: list[Any], content: str | None) -> None:
    found = parser().extract_tool_calls(text, None)
    assert (plain(found.tool_calls), found.content) == (calls, content)
    assert found.tools_called == bool(calls)
    for size in (1, 3, len(text)):
        own, said, made = parser(), "", []
        for start, end in pairwise([*range(0, len(text), size), len(text)]):
            delta = own.extract_tool_calls_streaming(
                text[:start], text[:end], text[start:end], [], [], [], None
            )
            if delta is not None:
                said += delta.content or ""
                made += delta.tool_calls
        assert plain(made) == calls
        assert said.rstrip("\n") == (content or "")
