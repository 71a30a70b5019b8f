"""Bodies that servers send with status 200: a whole reply is read, anything else is a reason."""

import json
from typing import Any

import pytest

from engine.endpoint import ChatClient, read_chat
from engine.judge_client import JudgeClient, JudgeConfig
from engine.protocol import Sampling
from engine.served_messages import named_in, sent_messages, sent_names, sent_tools
from evals.endpoint import EndpointResponder
from evals.responder import Ask
from tests.judge_server import Said, judge_server
from workbench.conversation import Conversation
from workbench.errors import UserError


def _body(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"choices": [choice], **more}).encode()


def _text(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


UNREADABLE = {
    "html": (b"<html><body>Please log in</body></html>", "not JSON: '<html><body>Please log in"),
    "cut": (_body(_text("It is 4"))[:40], "not JSON"),
    "empty": (b"", "not JSON"),
    "null": (b"null", "null in place of an object"),
    "list": (b"[1]", "[1] in place of an object"),
    "nan": (b"NaN", "NaN in place of an object"),
    "not utf-8": (b"\xff\xfe{}", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "no choices": (b'{"choices": []}', "no choice"),
    "null choices": (b'{"choices": null}', "no choice"),
    "null choice": (b'{"choices": [null]}', "without a message"),
    "null message": (_body(None), "without a message"),
    "error, vLLM": (b'{"object": "error", "message": "too long", "code": 400}', "error too long"),
    "error, routers": (b'{"error": {"message": "rate limited", "code": 429}}', "rate limited"),
    "error, text": (b'{"error": "model not loaded"}', "model not loaded"),
    "error, FastAPI": (b'{"detail": "Not Found"}', "Not Found"),
    "error in a choice": (
        json.dumps(
            {"choices": [{"message": _text("It"), "finish_reason": "error", "error": "lost"}]}
        ).encode(),
        "error lost",
    ),
    "filtered": (_body(_text("It is 4"), "content_filter"), "'content_filter'"),
    "no ending": (_body(_text("It is 4"), None), "None"),
    "a picture": (_body(_text([{"type": "image_url", "image_url": {}}])), "type 'image_url'"),
    "content a number": (_body(_text(4)), "content is a int"),
    "a call of nothing": (_body(_text(None, tool_calls=[{"function": None}])), "tool call without"),
    "a stream that broke": (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
    "a stream cut": (b'data: {"choices": [{"delta": {"content": "It"}}]}\n\n', "None"),
}  # fmt: skip
READABLE: dict[str, tuple[bytes, str, str]] = {
    "plain": (_body(_text("It is 4")), "It is 4", ""),
    "a BOM": (b"\xef\xbb\xbf" + _body(_text("It is 4")), "It is 4", ""),
    "kept alive with blanks": (b"\n\n  " + _body(_text("It is 4")), "It is 4", ""),
    "parts": (
        _body(_text([{"type": "text", "text": "It is"}, {"type": "output_text", "text": " 4"}])),
        "It is 4",
        "",
    ),
    "parts with a trace": (
        _body(
            _text(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                    {"type": "text", "text": "It is 4"},
                ]
            )
        ),
        "It is 4",
        "2+2",
    ),
    "reasoning_content": (_body(_text("It is 4", reasoning_content="2+2")), "It is 4", "2+2"),
    "reasoning": (_body(_text("It is 4", reasoning="2+2")), "It is 4", "2+2"),
    "both, one null": (
        _body(_text("It is 4", reasoning_content=None, reasoning="2+2")),
        "It is 4",
        "2+2",
    ),
    "NaN beside it": (
        _body(_text("It is 4"), usage={"completion_tokens": float("nan")}),
        "It is 4",
        "",
    ),
    "usage null": (_body(_text("It is 4"), usage=None), "It is 4", ""),
    "chunks": (
        b': PROCESSING\n\ndata: {"choices": [{"delta": {"role": "assistant", "content": "It "}}]}\n\n'
        b'data: {"choices": [{"delta": {"content": "is 4"}, "finish_reason": "stop"}]}\n\n'
        b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n',
        "It is 4",
        "",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_is_no_reply_is_an_error_with_its_reason(name: str) -> None:
    body, why = UNREADABLE[name]
    said = read_chat(body)
    assert said.finish_reason == "error" and why in said.error
    assert (said.answer, said.calls) == ("", ())


@pytest.mark.parametrize("name", READABLE)
def test_a_reply_in_another_dress_is_read(name: str) -> None:
    body, answer, trace = READABLE[name]
    said = read_chat(body)
    assert (said.finish_reason, said.answer, said.trace) == ("stop", answer, trace)


def test_a_refusal_is_what_the_model_answered_and_no_opinion_of_a_judge() -> None:
    said = read_chat(_body(_text(None, refusal="I cannot help")))
    assert (said.answer, said.refused) == ("I cannot help", True)
    with judge_server(lambda asked: Said(None, more={"refusal": "[[A]] no"})) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address)).ask([])
    assert (reply.status, "refused" in reply.reason) == ("error", True)


@pytest.mark.parametrize("name", UNREADABLE)
def test_neither_a_sweep_nor_a_judge_raises(name: str) -> None:
    body, why = UNREADABLE[name]
    with judge_server(lambda asked: Said(body=body)) as server:
        responder = EndpointResponder(server.address)
        prompt = responder.prepare(
            Conversation("a", "d", [{"role": "user", "content": "2+2"}]), thinking=True
        )
        ((_, done),) = responder.stream([Ask(prompt, Sampling(9, logprobs=False), 0)])
        reply = JudgeClient(JudgeConfig(endpoint=server.address)).ask(prompt["messages"])
    assert done.finish_reason == "error" and why in str(done.error)
    assert reply.status == "error" and why in reply.reason


def test_a_limit_with_a_newer_name_and_a_wait_that_the_server_asks_for() -> None:
    refusal = b'{"error": {"message": "max_tokens is unknown; use max_completion_tokens"}}'
    answers = [Said(status=429, body=b"{}"), Said(status=400, body=refusal), Said("It is 4")]
    with judge_server(lambda asked: answers.pop(0)) as server:
        said = ChatClient(server.address).chat([{"role": "user", "content": "?"}], max_tokens=5)
    assert (said.answer, len(server.asked)) == ("It is 4", 3)
    assert server.asked[2]["max_completion_tokens"] == 5 and "max_tokens" not in server.asked[2]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ('{"a": NaN}', '{"a": NaN}'),
        ("[1]", "[1]"),
        ('{"a": 1', '{"a": 1'),
    ],
)
def test_arguments_are_a_mapping_or_the_text_of_what_is_none(arguments: Any, read: Any) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    said = read_chat(_body(_text(None, tool_calls=[call]), "tool_calls"))
    assert said.calls == ({"name": "f", "arguments": read},)
    legacy = read_chat(_body(_text(None, function_call=call["function"]), "function_call"))
    assert legacy.calls == said.calls


def test_names_are_what_strict_servers_take_and_come_back() -> None:
    long = "x" * 70
    names = sent_names(["math.add", "math_add", "a b", long, long + "y", "größe", "math.add"])
    assert names == {
        "math_add": "math_add",
        "math.add": "math_add_2",
        "a b": "a_b",
        long: "x" * 64,
        long + "y": "x" * 62 + "_2",
        "größe": "gr__e",
    }
    call = {"function": {"name": "math_add_2", "arguments": "{}"}}
    with judge_server(lambda asked: Said(None, more={"tool_calls": [call]})) as server:
        back = {sent: own for own, sent in names.items()}
        said = ChatClient(server.address).chat([{"role": "user", "content": "?"}], names=back)
    assert said.calls == ({"name": "math.add", "arguments": {}},)


def test_calls_have_ids_of_their_own_and_results_carry_them() -> None:
    def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}, **more}

    tools = [{"name": "math.add", "parameters": {}}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [call("math.add", {"a": 1}, id="one"), call("math.add", "", id="two")],
        },
        {"role": "tool", "tool_call_id": "two", "content": {"sum": 2}},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "", "tool_calls": [call("other", '{"b": "ü"}')]},
        {"role": "tool", "content": "3", "name": "other"},
    ]
    names = sent_names(named_in(messages, tools))
    sent = sent_messages(messages, names)
    assert sent_tools(tools, names) == [
        {"type": "function", "function": {"name": "math_add", "parameters": {}}}
    ]
    ids = [c["id"] for m in sent for c in m.get("tool_calls", [])]
    assert ids == ["call00000", "call00001", "call00002"]
    results = [(m["tool_call_id"], m["content"]) for m in sent if m["role"] == "tool"]
    assert results == [("call00001", '{"sum": 2}'), ("call00000", "1"), ("call00002", "3")]
    texts = [c["function"]["arguments"] for m in sent for c in m.get("tool_calls", [])]
    assert texts == ['{"a": 1}', "{}", '{"b": "ü"}']
    assert sent[1]["content"] == "" and "reasoning_content" not in sent[1]
    for bad in ("{", "[1]", {"a": float("nan")}):
        messages[4]["tool_calls"] = [call("other", bad)]
        with pytest.raises(UserError, match="tool call 'other': arguments"):
            sent_messages(messages, names)
