"""The workplace: our verdicts are the package's, our tasks have solutions, and the halves share nothing."""

import importlib
import json
import random
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from environments import workplace
from environments.config import WorkplaceTasks
from environments.protocol import Task, ToolCall, calling, play_gold
from environments.workplace import Workplace
from workbench.errors import UserError
from workbench.separate import INSTALL, separate_folder

if separate_folder("resources_servers") is None:
    pytest.skip(f"nemo-gym is not installed; {INSTALL}", allow_module_level=True)

from environments import workplace_tasks

DOMAINS = ("email", "calendar", "analytics", "projects", "customers", "several")


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    """The package's own utils, imported the way its README does."""
    folder = str(workplace.package_folder().parents[1])
    sys.path.append(folder)
    yield importlib.import_module("resources_servers.workplace_assistant.utils")
    sys.path.remove(folder)


def _config(**fields: Any) -> WorkplaceTasks:
    return WorkplaceTasks.model_validate({"type": "workplace", **fields})


def _tasks(half: str, n: int = 150, seed: int = 1, **fields: Any) -> list[Task]:
    return workplace_tasks.tasks(_config(half=half, **fields), n, seed)


def _shipped(name: str) -> list[dict[str, Any]]:
    path = workplace.package_folder() / "data" / name
    return [json.loads(line) for line in path.read_text().splitlines()]


def _calls(actions: list[dict[str, Any]]) -> list[ToolCall]:
    return [{"name": a["name"], "arguments": json.loads(a["arguments"])} for a in actions]


def _task(gold: list[ToolCall]) -> Task:
    return Task("t", "workplace", [], list(workplace.documents()), {"calls": gold})


def _play(gold: list[ToolCall], calls: list[ToolCall]) -> float | None:
    world = Workplace()
    world.reset(_task(gold))
    for call in calls:
        world.step(calling(call))
    assert world.step(calling()).done
    return world.verify().value


def test_there_are_27_tools() -> None:
    assert len(workplace.documents()) == 27 == len(workplace.tool_names())


def test_the_five_shipped_tasks() -> None:
    rows = _shipped("example.jsonl")
    assert len(rows) == 5
    for row in rows:
        gold = _calls(row["ground_truth"])
        assert _play(gold, gold) == 1.0
        assert _play(gold, []) == 0.0
        offered = [{k: t[k] for k in ("name", "description", "parameters")}
                   for t in row["responses_create_params"]["tools"]]  # fmt: skip
        assert offered == list(workplace.documents())


def _solution(request: str) -> list[ToolCall]:
    """[derived] The shipped rollouts come without their gold: read off the tables, request by request."""
    kits = workplace.fresh()
    crm, mail = kits["customer_relationship_manager"]._crm_data, kits["email"]._emails
    if "bar chart" in request:  # since 30 November, and that is today
        return [{"name": "analytics_create_plot",
                 "arguments": {"time_min": "2023-11-30", "time_max": "2023-11-30",
                               "value_to_plot": "total_visits", "plot_type": "bar"}}]  # fmt: skip
    if "consulting" in request:
        late = crm[(crm.product_interest == "Consulting") & (crm.status == "Proposal")
                   & (crm.last_contact_date <= "2023-11-09")]  # fmt: skip
        assert not len(late)
        return []
    if "Casey Wilson" in request:
        (identity,) = crm[crm.customer_name == "Casey Wilson"].customer_id
        return [{"name": "customer_relationship_manager_delete_customer",
                 "arguments": {"customer_id": identity}}]  # fmt: skip
    if "Dakota Thomas" in request:
        return [{"name": "customer_relationship_manager_add_customer",
                 "arguments": {"customer_name": "Dakota Thomas", "status": "Lead",
                               "assigned_to_email": "nadia.moreau@atlas.com"}}]  # fmt: skip
    assert "kofi" in request
    mine = mail[mail["sender/recipient"] == "kofi.mensah@atlas.com"].sort_values("sent_datetime")
    return [{"name": "email_delete_email", "arguments": {"email_id": mine.email_id.iloc[-1]}}]


def test_the_five_shipped_rollouts_score_as_recorded_and_see_what_they_saw() -> None:
    scores, recorded = [], []
    for row in _shipped("example_rollouts.jsonl"):
        request = row["responses_create_params"]["input"][-1]["content"]
        output = row["response"]["output"]
        calls = _calls([o for o in output if o["type"] == "function_call"])
        seen = [json.loads(o["output"])["output"] for o in output if "output" in o]
        world = Workplace()
        world.reset(_task(_solution(request)))
        answers = [str(m["content"]) for call in calls for m in world.step(calling(call)).messages]
        assert answers == [
            s if isinstance(s, str) else json.dumps(s, ensure_ascii=False) for s in seen
        ]
        scores.append(world.verify().value)
        recorded.append(row["reward"])
    assert scores == recorded == [0.0, 1.0, 1.0, 1.0, 1.0]


def _damaged(calls: list[ToolCall], rng: random.Random) -> list[ToolCall]:
    """One change: a call dropped, doubled, or an argument in another case or changed."""
    out = deepcopy(calls)
    place, kind = rng.randrange(len(out)), rng.randrange(4)
    if kind == 0:
        out.pop(place)
    elif kind == 1:
        out.insert(place, deepcopy(out[place]))
    else:
        name = rng.choice(list(out[place]["arguments"]))
        value = str(out[place]["arguments"][name])
        out[place]["arguments"][name] = value.upper() if kind == 2 else f"{value}1"
    return out


def test_agrees_with_the_package_on_damaged_solutions(
    package: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 solutions with one change each: the package's verdict, both ways often enough to mean it."""
    rng, verdicts = random.Random(3), []
    for task in _tasks("train", 100):
        gold = task.data["calls"]
        calls = _damaged(gold, rng)
        told = [
            [{"name": c["name"], "arguments": json.dumps(c["arguments"])} for c in actions]
            for actions in (calls, gold)
        ]
        expected = bool(package.is_correct(told[0], told[1], None))
        assert (_play(gold, calls) == 1.0) == expected, (task.messages, calls)
        verdicts.append(expected)
    assert 15 < sum(verdicts) < 85


@pytest.mark.parametrize("half", ["train", "test"])
def test_every_solution_verifies_and_doing_nothing_does_not(half: str) -> None:
    found = _tasks(half, 200)
    assert {t.data["domain"] for t in found} == set(DOMAINS)
    for task in found:
        assert play_gold(Workplace(), task).value == 1.0, task.messages
        world = Workplace()
        world.reset(task)
        assert world.step(calling()).done and world.verify().value == 0.0, task.messages
    assert len({t.messages[1]["content"] for t in found}) == 200


def test_the_halves_share_no_value_and_no_request() -> None:
    train, test = (workplace_tasks._office(half).values for half in ("train", "test"))
    for kind, values in train.items():
        assert values and test[kind] and not set(values) & set(test[kind]), kind
    words = [{str(t.messages[1]["content"]) for t in _tasks(half)} for half in ("train", "test")]
    assert not words[0] & words[1]
    named = {v for kind, values in train.items() if kind != "past day" for v in values}
    for text in words[1]:
        hits = [v for v in named if re.search(rf"\b{re.escape(v)}\b", text)]
        assert not hits, (text, hits)


def test_tasks_are_seeded_and_the_tools_can_be_fewer() -> None:
    assert _tasks("train", 5) == _tasks("train", 20)[:5] != _tasks("train", 5, seed=2)
    few = _tasks("train", 20, tools="needed", domains=("email",))
    assert {len(t.tools) for t in few} == {7}
    with pytest.raises(UserError, match="ask for fewer"):
        _tasks("train", 3000, domains=("customers",))


def test_episodes_share_nothing() -> None:
    gold = _tasks("train", 1)[0].data["calls"]
    before = workplace.tables(workplace.fresh())
    assert _play(gold, gold) == 1.0 == _play(gold, gold)
    after = workplace.tables(workplace.fresh())
    assert all(before[name].equals(after[name]) for name in before)


@pytest.mark.parametrize(
    "call",
    [
        {"name": "email_reset_state", "arguments": {}},
        {"name": "email___init__", "arguments": {}},
        {"name": "__import__('os').system", "arguments": {"command": "true"}},
        {"name": "email_delete_email", "arguments": {"self": 1}},
        {"name": "email_delete_email", "arguments": "00000001"},
        {"name": ["email_delete_email"], "arguments": {}},
        {"name": "calendar_search_events", "arguments": {"query": "(\\w+\\s?)+$"}},
        {},
    ],
)
def test_a_hostile_call_is_words(call: dict[str, Any]) -> None:
    world = Workplace()
    world.reset(_task([]))
    (answer,) = world.step(calling(call)).messages
    assert "error" in str(answer["content"]) and world.verify().value == 1.0


def test_only_tools_on_offer_work() -> None:
    task = next(t for t in _tasks("train", 50, tools="needed") if t.data["domain"] == "analytics")
    world = Workplace()
    world.reset(task)
    (answer,) = world.step(
        calling({"name": "email_search_emails", "arguments": {"query": "x"}})
    ).messages
    assert "there is no tool" in str(answer["content"])


def test_a_task_may_offer_what_its_solution_calls_alone() -> None:
    for task in _tasks("train", 12, tools="called", domains=("analytics", "several")):
        called = {call["name"] for call in task.data["calls"]}
        assert {tool["name"] for tool in task.tools} == called
