"""The client of servers that know no budgets, against a scripted server."""

from types import SimpleNamespace
from typing import Any

import pytest

from budget.client import complete, extra_body
from workbench.errors import UserError


class Server:
    """Answers each call with the next scripted text, and remembers what it was asked."""

    def __init__(self, *replies: tuple[str, str, int]) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **request: Any) -> Any:
        self.asked.append(request)
        text, finish, tokens = self.replies.pop(0)
        choice = SimpleNamespace(text=text, finish_reason=finish)
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=tokens))


def test_a_long_trace_is_cut_and_answered() -> None:
    server = Server(("so 3", "length", 4), ("three", "stop", 2))
    reply = complete(server, "P<think>\n", budget=4, max_tokens=10, temperature=0.6)
    assert server.asked == [
        {"prompt": "P<think>\n", "max_tokens": 4, "temperature": 0.6},
        {"prompt": "P<think>\nso 3.\n</think>\n\n", "max_tokens": 6, "temperature": 0.6},
    ]
    assert reply.text == "so 3.\n</think>\n\nthree"
    assert (reply.thinking_tokens, reply.total_tokens, reply.cut) == (4, 6, True)
    assert reply.finish_reason == "stop"


def test_a_short_trace_needs_one_call_or_is_continued_as_it_is() -> None:
    done = complete(Server(("a</think>b", "stop", 5)), "P", budget=9, max_tokens=20)
    assert (done.text, done.cut, done.total_tokens) == ("a</think>b", False, 5)
    server = Server(("a</think>b", "length", 9), ("cd", "stop", 2))
    longer = complete(server, "P", budget=9, max_tokens=20)
    assert server.asked[1]["prompt"] == "Pa</think>b"
    assert (longer.text, longer.cut) == ("a</think>bcd", False)


def test_an_answer_is_not_thinking() -> None:
    """11 of 30 characters are trace, of 40 tokens: 14.7 [derived]. A reply without a tag is all trace."""
    server = Server(("short trace</think>long answer", "stop", 40))
    reply = complete(server, "P", budget=50, max_tokens=90)
    assert (reply.thinking_tokens, reply.total_tokens) == (15, 40)
    unclosed = complete(Server(("short", "stop", 4)), "P", budget=50, max_tokens=90)
    assert (unclosed.thinking_tokens, unclosed.total_tokens) == (4, 4)


def test_a_budget_of_0_answers_at_once_and_no_tokens_are_left_over() -> None:
    server = Server(("yes", "stop", 1))
    assert complete(server, "P", budget=0, max_tokens=5).text == ".\n</think>\n\nyes"
    assert server.asked[0]["max_tokens"] == 5
    spent = complete(Server(("abc", "length", 5)), "P", budget=9, max_tokens=5)
    assert (spent.text, spent.finish_reason) == ("abc", "length")
    with pytest.raises(UserError, match="thinking_budget -1"):
        complete(server, "P", budget=-1, max_tokens=5)


def test_the_body_of_a_request_to_our_own_server() -> None:
    expected = {"thinking_budget": 512, "thinking_grace": 500, "thinking_rule": "newline"}
    assert extra_body(512) == {"vllm_xargs": expected}
