"""Replies of other families of models: trace and tool calls by what their template says."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reward import check
from workbench.chat import ReplyFormat, parse, reply_format

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
QWEN3 = (
    TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


def _tokenizer(template: str) -> Any:
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # Qwen3's: the model opens its trace itself.
        (QWEN3 + "{# <tool_call> #}", ReplyFormat(True, False, "hermes")),
        (TURNS + "<think>\n{# <tool_call> #}", ReplyFormat(True, True, "hermes")),
        (TURNS + "{# [TOOL_CALLS] #}", ReplyFormat(False, False, "mistral")),
        (TURNS, ReplyFormat(False, False, "nano-v2")),
    ],
)
def test_a_template_says_how_replies_look(template: str, expected: ReplyFormat) -> None:
    assert reply_format(_tokenizer(template)) == expected


def _calls(form: ReplyFormat, text: str, *, asked: bool = True) -> Any:
    normal = form.normal(text)
    return parse(normal, thinking=form.thought(normal, asked=asked)).tool_calls


def test_hermes_calls_become_ours() -> None:
    form = ReplyFormat(True, False, "hermes")
    one = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    two = one + '\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
    call = {"name": "f", "arguments": {"x": 1}}
    assert _calls(form, f"<think>\nso\n</think>\n\n{one}") == [call]
    assert _calls(form, two) == [call, {"name": "g", "arguments": {}}]
    # What a trace considers is not a call, and what cannot be read is not a call.
    assert _calls(form, f"<think>\n{one}\n</think>\n\nNo call needed.") is None
    assert _calls(form, '<tool_call>{"name": 3}</tool_call>') is None
    assert _calls(form, "<tool_call>{broken</tool_call>") is None


F, G = {"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}
F_TEXT, G_TEXT = '{"name": "f", "arguments": {"x": 1}}', '{"name": "g", "arguments": {}}'


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<TOOLCALL>[{F_TEXT}]</TOOLCALL>", [F]),
        (f"Let me see.\n<TOOLCALL>[{F_TEXT}]</TOOLCALL>\n\nI have called f.", [F]),
        (f"<TOOLCALL>{F_TEXT}</TOOLCALL>", [F]),
        (f"<TOOLCALL>{F_TEXT}, {G_TEXT}</TOOLCALL>", [F, G]),
        (f"<TOOLCALL>[{F_TEXT}</TOOLCALL>", [F]),
        (f"<TOOLCALL>[{F_TEXT}]</TOOLCALL><TOOLCALL>[{G_TEXT}]</TOOLCALL>", [F]),
        (f"so <TOOLCALL>[{G_TEXT}]</TOOLCALL>\n</think>\n\n<TOOLCALL>{F_TEXT}</TOOLCALL>", [F]),
        (f"so <TOOLCALL>{G_TEXT}</TOOLCALL>\n</think>\n\nNo call is needed.", None),
        (f"<TOOLCALL>[{F_TEXT}]", None),
        ("<TOOLCALL>f(x=1)</TOOLCALL>", None),
        ("<TOOLCALL></TOOLCALL>", None),
    ],
)
def test_calls_are_read_as_the_models_own_parser_reads_them(text: str, calls: Any) -> None:
    """The rules of nemotron_json, which serves the model: a local engine and a server score alike."""
    form = ReplyFormat()
    asked = "</think>" in text
    normal = form.normal(text, asked=asked)
    assert parse(normal, thinking=form.thought(normal, asked=asked)).tool_calls == calls
    document = {"name": "f", "description": "", "parameters": {
        "type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}  # fmt: skip
    verdict = check(
        "tools", normal, [{"f": {"x": [1]}}], tools=[document], category="simple",
        answer_format="possible",
    )  # fmt: skip
    assert verdict.value == float(calls == [F])


def test_an_unfinished_trace_stays_as_it_is() -> None:
    text = f"maybe <TOOLCALL>{F_TEXT}</TOOLCALL> or not"
    assert ReplyFormat().normal(text, asked=True) == text
    assert ReplyFormat(True, True, "hermes").normal(text, asked=True) == text


def test_mistral_calls_become_ours() -> None:
    form = ReplyFormat(False, False, "mistral")
    text = 'Sure.[TOOL_CALLS] [{"name": "f", "arguments": {"x": [1]}}]'
    assert _calls(form, text) == [{"name": "f", "arguments": {"x": [1]}}]
    assert parse(form.normal(text), thinking=False).answer.strip() == "Sure."
    assert _calls(form, "[TOOL_CALLS] not json") is None
    assert _calls(form, '[{"name": "f", "arguments": {"x": [1]}}]') == [
        {"name": "f", "arguments": {"x": [1]}}
    ]
    assert _calls(form, "[1, 2]") is None and _calls(form, '[{"x": 1}]') is None


def test_whether_a_reply_begins_with_a_trace() -> None:
    opens, may, never = ReplyFormat(), ReplyFormat(True, False), ReplyFormat(False, False)
    assert opens.thought("anything", asked=True) and not opens.thought("x", asked=False)
    assert may.thought("<think>a</think>b", asked=True) and may.thought("a</think>b", asked=True)
    assert not may.thought("no trace", asked=True)
    assert not never.thought("<think>", asked=True) and not never.thinking(True)
