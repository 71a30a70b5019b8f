"""A served model as one to evaluate: what is sent, how its replies are read, and what fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import Sampling
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.endpoint import EndpointResponder
from evals.jobs import Job
from evals.run import evaluate
from evals.sources import Data
from tests.judge_server import Said, judge_server
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

TOOL = {
    "name": "add",
    "description": "adds",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def _question(name: str, check: CheckSpec, **more: Any) -> Conversation:
    return Conversation(name, "d", [{"role": "user", "content": name}], check=check, **more)


QUESTIONS = [
    _question("plain", CheckSpec("math", "4")),
    _question("traced", CheckSpec("math", "5")),
    _question("inline", CheckSpec("math", "6")),
    _question("cut", CheckSpec("math", "7")),
    _question("broken", CheckSpec("math", "8")),
    _question("filtered", CheckSpec("math", "8")),
    _question(
        "tools",
        CheckSpec("tools", [{"name": "add", "arguments": {"a": 1}}], {"tools": [TOOL]}),
        tools=[TOOL],
    ),
]


def _say(asked: dict[str, Any]) -> Said:
    if asked["messages"][-1]["content"] not in {q.id for q in QUESTIONS}:
        return Said("a probe's reply")
    call = {"name": "add", "arguments": '{"a": 1}'}
    tool_calls = [{"id": "c", "type": "function", "function": call}]
    return {
        "plain": Said("It is 4"),
        "traced": Said("It is 5", more={"reasoning_content": "perhaps 9"}),
        "inline": Said("<think>\nperhaps 9\n</think>\n\nIt is 6"),
        "cut": Said("", finish_reason="length", more={"reasoning_content": "on and on 7"}),
        "broken": Said(status=400),
        "filtered": Said("8", finish_reason="content_filter"),
        "tools": Said(None, finish_reason="tool_calls", more={"tool_calls": tool_calls}),
    }[asked["messages"][-1]["content"]]


def _questions(asked: list[dict[str, Any]]) -> list[str]:
    """What was asked besides the probes."""
    found = [a["messages"][-1]["content"] for a in asked]
    return sorted(name for name in found if name in {q.id for q in QUESTIONS})


def _evaluated(address: str, out: Path, **sampling: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = Benchmark(
        "served", "served", Data("here"), lambda _: QUESTIONS, BenchmarkSampling(source="test")
    )
    job = Job(found, None, None, Sampling(**({"max_tokens": 9, "seed": 3} | sampling)))
    (result,) = evaluate(EndpointResponder(address), [job], model="m", out=out, data=out)
    lines = (out / "served" / "samples.jsonl").read_text().splitlines()
    return result, {row["id"]: row for row in map(json.loads, lines)}


def test_replies_of_every_kind_are_read_as_they_were_meant(tmp_path: Path) -> None:
    with judge_server(_say) as server:
        result, rows = _evaluated(server.address, tmp_path)
        values = {name: row["value"] for name, row in rows.items()}
        assert values == {
            "plain": 1.0, "traced": 1.0, "inline": 1.0, "cut": 0.0, "broken": None,
            "filtered": None, "tools": 1.0,
        }  # fmt: skip
        assert (result["n"], result["failed"], result["truncated"]) == (5, 2, 1)
        assert rows["traced"]["thinking"].strip() == rows["inline"]["thinking"].strip()
        assert rows["cut"]["answer"] == "" and "on and on" in rows["cut"]["thinking"]
        assert rows["plain"]["thinking"] == ""
        assert "BadRequest" in rows["broken"]["why"]["reason"]
        # The next run asks only for what failed.
        before = len(server.asked)
        assert _evaluated(server.address, tmp_path)[0]["metrics"] == result["metrics"]
        assert _questions(server.asked[before:]) == ["broken", "filtered"]


def test_what_is_sent(tmp_path: Path) -> None:
    with judge_server(_say) as server:
        _evaluated(server.address, tmp_path, temperature=0.3, top_p=0.9)
    asked = {a["messages"][-1]["content"]: a for a in server.asked}
    asked = {q.id: asked[q.id] for q in QUESTIONS}
    plain = asked["plain"]
    assert [m["role"] for m in plain["messages"]] == ["user"]  # no word of a family it may not know
    assert (plain["temperature"], plain["top_p"], plain["max_tokens"]) == (0.3, 0.9, 9)
    assert "tools" not in plain
    assert asked["tools"]["tools"] == [{"type": "function", "function": TOOL}]
    assert len({a["seed"] for a in asked.values()}) == len(QUESTIONS)


def test_an_address_names_its_model() -> None:
    with pytest.raises(UserError, match="the name after the #"):
        EndpointResponder("http://host/v1")
