"""The judge's client against a real HTTP server: what fails is a status, never a verdict."""

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

from engine.endpoint import _whole_body
from engine.judge_client import JudgeClient, JudgeConfig
from tests.judge_server import Said, judge_server
from workbench.errors import UserError

ASK = [{"role": "user", "content": "Which is better?"}]


def test_a_reply_without_its_thinking_and_what_was_sent() -> None:
    with judge_server(
        lambda asked: Said("<think>hm, [[A]]?</think>\n\nThe second. [[B]]")
    ) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address, max_tokens=99)).ask(ASK)
    assert (reply.status, reply.text, reply.tokens) == ("ok", "The second. [[B]]", 7)
    (asked,) = server.asked
    assert asked["messages"] == ASK
    assert (asked["model"], asked["max_tokens"], asked["temperature"], asked["seed"]) == (
        "judge",
        99,
        0.0,
        0,
    )


def test_null_settings_are_not_sent() -> None:
    with judge_server(lambda asked: Said()) as server:
        JudgeClient(JudgeConfig(endpoint=server.address, temperature=None, seed=None)).ask(ASK)
    assert not {"temperature", "seed"} & set(server.asked[0])


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        (Said("[[A]]", finish_reason="length"), "truncated", "limit"),
        (Said("[[A]]", finish_reason="content_filter"), "error", "content_filter"),
        (Said(""), "error", "empty"),
        (Said(None), "error", "empty"),
        (Said("<think>only thought</think>"), "error", "empty"),
        (Said(status=400), "error", "BadRequest"),
        (Said(status=401), "error", "Authentication"),
    ],
)
def test_no_whole_reply_is_no_opinion(said: Said, status: str, why: str) -> None:
    with judge_server(lambda asked: said) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address)).ask(ASK)
    assert reply.status == status
    assert why in reply.reason
    assert len(server.asked) == 1  # none of these is worth asking again


def test_a_passing_failure_is_asked_again_and_a_lasting_one_ends() -> None:
    answers = [Said(status=500), Said(status=429), Said("third time")]
    with judge_server(lambda asked: answers.pop(0)) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address, retries=2)).ask(ASK)
    assert (reply.status, reply.text, len(server.asked)) == ("ok", "third time", 3)
    with judge_server(lambda asked: Said(status=503)) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address, retries=2)).ask(ASK)
    assert (reply.status, len(server.asked)) == ("error", 3)


def test_a_slow_judge_and_no_judge() -> None:
    def slow(asked: dict[str, Any]) -> Said:
        time.sleep(1.0)
        return Said()

    with judge_server(slow) as server:
        config = JudgeConfig(endpoint=server.address, timeout_s=0.2, retries=0)
        reply = JudgeClient(config).ask(ASK)
        assert (reply.status, "Timeout" in reply.reason) == ("error", True)
    config = JudgeConfig(endpoint="http://127.0.0.1:9/v1#judge", retries=0)
    assert JudgeClient(config).ask(ASK).status == "error"
    with pytest.raises(UserError, match="does not answer"):
        JudgeClient(config).must_answer()


def test_a_reply_in_fragments_is_whole_or_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is within the time-out, so the HTTP package's own sees nothing."""
    with judge_server(lambda asked: Said("It is A", drips=0.01)) as server:
        config = JudgeConfig(endpoint=server.address, timeout_s=600.0, retries=0)
        assert JudgeClient(config).ask(ASK).text == "It is A"
        hours = itertools.count(0, 3600)
        monkeypatch.setattr("engine.endpoint.time", SimpleNamespace(monotonic=lambda: next(hours)))
        reply = JudgeClient(config).ask(ASK)
    assert (reply.status, reply.text) == ("error", "") and "its time was over" in reply.reason


def test_the_time_of_a_reply_is_that_of_all_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(1)  # the clock when a piece has arrived
    monkeypatch.setattr("engine.endpoint.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert _whole_body(iter([b"It ", b"is ", b"A"]), until=3.0) == b"It is A"
    with pytest.raises(TimeoutError, match="its time was over"):
        _whole_body(iter([b"It ", b"is ", b"A"]), until=5.0)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Said(status=500, stops="cut"), "RemoteProtocolError"),
        (Said(status=500, stops="stalled"), "Timeout"),
        (Said(status=500, drips=0.01), "InternalServerError"),
        (Said(status=400, stops="cut"), "RemoteProtocolError"),
        (Said(stops="cut"), "RemoteProtocolError"),
        (Said(stops="stalled"), "Timeout"),
    ],
)
def test_a_body_that_breaks_off_is_a_request_that_failed(said: Said, why: str) -> None:
    timeout_s = 0.5 if said.stops == "stalled" else 600.0
    with judge_server(lambda asked: said) as server:
        config = JudgeConfig(endpoint=server.address, timeout_s=timeout_s, retries=1)
        reply = JudgeClient(config).ask(ASK)
        assert len(server.asked) == 2  # it may pass
    assert reply.status == "error" and why in reply.reason


def test_a_reply_that_does_not_end_is_left_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.endpoint._LONGEST_BODY", 1 << 20)
    with judge_server(lambda asked: Said(body=b" " * (3 << 20))) as server:
        reply = JudgeClient(JudgeConfig(endpoint=server.address, retries=2)).ask(ASK)
        assert len(server.asked) == 1
    assert reply.status == "error" and "longer than 1,048,576 bytes" in reply.reason


def test_many_questions_keep_their_order_and_few_requests_open() -> None:
    def echo(asked: dict[str, Any]) -> Said:
        time.sleep(0.1)
        return Said(asked["messages"][0]["content"])

    with judge_server(echo) as server:
        client = JudgeClient(JudgeConfig(endpoint=server.address, parallel=3))
        asks = [[{"role": "user", "content": f"q{i}"}] for i in range(20)]
        assert [r.text for r in client.ask_all(asks)] == [f"q{i}" for i in range(20)]
        assert client.ask_all([]) == []
    assert server.most_open == 3


@pytest.mark.parametrize("endpoint", ["localhost:8000", "http://host/v1", "http://host/v1#"])
def test_an_endpoint_names_its_model(endpoint: str) -> None:
    with pytest.raises(UserError, match="judge.endpoint: write it as http"):
        JudgeConfig.read({"endpoint": endpoint}, where="judge")
