"""The house: its own solutions pass, everything else fails, and nothing a model writes is run."""

from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from data_mix.config import HouseSource
from data_mix.sources import open_source
from data_mix.world.house import house_tasks, solved
from data_mix.world.problem import split_of
from data_mix.world.tooluse import TOOLS
from environments import house
from environments.house import House
from environments.protocol import Task, calling, play_gold
from workbench.errors import UserError

TASKS = house.tasks("rl", 200, 1)


def test_every_solution_verifies_and_doing_nothing_does_not() -> None:
    assert sum(play_gold(House(), task).value == 1.0 for task in TASKS) == len(TASKS)
    # Eight of 1,500 starts drawn at random had what was asked for.
    drawn = [
        task
        for split in ("rl", "test", "train")
        for requests in ((1, 1), (1, 3))
        for task in house.tasks(split, 250, 3, requests=requests)
    ]
    for task in (*TASKS, *drawn):
        world = House()
        world.reset(task)
        assert world.step(calling()).done and world.verify().value == 0.0


def test_tasks_that_ask_the_same_say_so() -> None:
    """200 wordings of some 120 single requests: intervals are clustered by `problem`."""
    single = house.tasks("test", 200, 3, requests=(1, 1))
    asked = [str(task.data["calls"]) for task in single]
    assert len({t.messages[0]["content"] for t in single}) == 200 > 150 > len(set(asked))
    assert len({(t.problem, calls) for t, calls in zip(single, asked, strict=True)}) == len(
        {t.problem for t in single}
    ) == len(set(asked))  # fmt: skip


def _play(task: Task, calls: list[dict[str, Any]]) -> tuple[House, list[str]]:
    world = House()
    world.reset(task)
    said = [str(m["content"]) for m in world.step(calling(*calls)).messages]
    return world, said


def test_a_wrong_missing_or_extra_call_fails() -> None:
    task = next(t for t in TASKS if len(t.data["calls"]) == 3)
    gold = task.data["calls"]
    assert _play(task, gold[::-1])[0].verify().value == 1.0
    for place in range(3):
        assert _play(task, gold[:place] + gold[place + 1 :])[0].verify().value == 0.0
        for name, value in gold[place]["arguments"].items():
            wrong = deepcopy(gold)
            wrong[place]["arguments"][name] = value + 1 if isinstance(value, int) else "Zoe2"
            assert _play(task, wrong)[0].verify().value == 0.0
    timer = next(t for t in TASKS if any(c["name"] == "set_timer" for c in t.data["calls"]))
    again = [c for c in timer.data["calls"] if c["name"] == "set_timer"]
    assert _play(timer, timer.data["calls"] + again)[0].verify().value == 0.0


@pytest.mark.parametrize(
    "call",
    [
        {"name": "__class__", "arguments": {}},
        {"name": "reset", "arguments": {"task": None}},
        {"name": "_set_light", "arguments": {"room": "hall", "level": 3}},
        {"name": "set_light", "arguments": {"room": "__import__('os').system('x')", "level": 3}},
        {"name": "set_light", "arguments": {"room": "hall", "level": True}},
        {"name": "set_light", "arguments": {"room": "hall", "level": "3"}},
        {"name": "set_light", "arguments": {"self": 1}},
        {"name": "set_light", "arguments": {"room": ["hall"], "level": 3}},
        {"name": "set_light", "arguments": None},
        {"name": ["x"], "arguments": {}},
        {"name": None},
        {},
    ],
)
def test_a_call_that_cannot_be_carried_out_is_an_error_in_words(call: dict[str, Any]) -> None:
    task = replace(TASKS[0], tools=[tool.document for tool in TOOLS])
    world, said = _play(task, [call])
    assert "error" in said[0] and world.state == task.data["start"]


def test_only_tools_on_offer_work() -> None:
    task = TASKS[0]
    offered = {t["name"] for t in task.tools}
    hidden = next(t.name for t in TOOLS if t.name not in offered)
    assert "there is no tool" in _play(task, [{"name": hidden, "arguments": {}}])[1][0]
    assert offered >= {c["name"] for c in task.data["calls"]} and len(task.tools) == 4


def test_episodes_share_nothing() -> None:
    task, world = TASKS[0], House()
    before = deepcopy(task.data)
    for _ in range(2):
        world.reset(task)
        assert world.state == before["start"]
        world.step(calling(*task.data["calls"]))
        assert world.verify().value == 1.0
    assert task.data == before


def test_no_request_is_in_two_splits() -> None:
    keys = {}
    for split in ("rl", "test"):
        tools = {tool.name: tool for tool in TOOLS}
        drawn = house.tasks(split, 300, 4)
        keys[split] = {tools[c["name"]].key(c["arguments"]) for t in drawn for c in t.data["calls"]}
        assert {split_of(key) for key in keys[split]} == {split}
        assert len({t.messages[0]["content"] for t in drawn}) == 300
    assert not keys["rl"] & keys["test"]
    assert house.tasks("rl", 5, 1) == TASKS[:5] and house.tasks("rl", 5, 2) != TASKS[:5]


def test_the_solutions_of_sft_are_what_the_house_says() -> None:
    """Played call by call: every result in the sample is the environment's, and the end succeeds."""
    drawn = house_tasks("train", 9, requests=(1, 3), offered=3)
    for number, task in enumerate(islice(drawn, 60)):
        world, messages = House(), solved(task)
        world.reset(
            Task(str(number), "house", [], task.tools, {"start": task.start, "calls": task.calls})
        )
        for place, message in enumerate(messages[1:], start=1):
            if message["role"] == "assistant":
                calls = [c["function"] for c in message.get("tool_calls", [])]
                step = world.step(calling(*calls))
                assert step.messages == messages[place + 1 : place + 1 + len(calls)]
        assert step.done and world.verify().value == 1.0
        assert [m["role"] for m in messages] == [
            "user", *(["assistant", "tool"] * len(task.calls)), "assistant",
        ]  # fmt: skip
        keys = {_key(call) for call in task.calls}
        assert {split_of(key) for key in keys} == {"train"}


def _key(call: dict[str, Any]) -> str:
    return next(t for t in TOOLS if t.name == call["name"]).key(call["arguments"])


def test_each_reply_is_a_sample_of_its_own() -> None:
    config = HouseSource.model_validate({"type": "house", "requests": [2, 2], "offered": 2})
    source = open_source(config, name="house", seed=3)
    samples = source.take(30)
    assert [len(s.messages) for s in samples] == [2, 4, 6] * 10  # type: ignore[union-attr]
    assert all(s.reply and s.domain == "house" for s in samples)  # type: ignore[union-attr]
    again = open_source(config, name="house", seed=3)
    again.load_state_dict({"position": 17})
    assert again.draw() == samples[17]
    other = open_source(config.model_copy(update={"split": "test"}), name="house", seed=3)
    assert {str(s) for s in other.take(30)}.isdisjoint(map(str, samples))


def test_a_split_that_is_used_up_says_so() -> None:
    with pytest.raises(UserError, match="ask for fewer"):
        house.tasks("validation", 2000, 1, requests=(1, 1))
