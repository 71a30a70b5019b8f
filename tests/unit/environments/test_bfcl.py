"""BFCL's episodes: all 800 solutions verify, judged as the package judges, and nothing is evaluated."""

import importlib
import random
from copy import deepcopy
from typing import Any

import pytest

from environments import bfcl
from environments.bfcl import APIS, Bfcl, all_tasks, read_call
from environments.config import BfclTasks
from environments.protocol import Task, play_gold
from reward.tools import _ast_checker
from workbench.errors import UserError

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")


def test_all_800_solutions_verify() -> None:
    counts = {
        c: sum(play_gold(Bfcl(), task).value == 1.0 for task in all_tasks(c)) for c in CATEGORIES
    }
    assert counts == dict.fromkeys(CATEGORIES, 200)


def test_there_are_129_tools_and_every_document_has_its_method() -> None:
    # Lines of the package's documents in 2025.6.16, API by API (the 2026.3.23 release has 128).
    counts = {api: len(bfcl._documents_of(api)) for api in APIS}
    assert list(counts.values()) == [18, 17, 10, 14, 9, 22, 17, 22] and sum(counts.values()) == 129
    assert all(len(bfcl._methods(api)) == counts[api] for api in APIS)


def _official(task: Task, turns: list[list[dict[str, Any]]], run: str) -> bool:
    """The package's own checker on the same calls, in Python syntax (ours, so its eval is safe)."""
    _ast_checker()  # leaves a stand-in for the module that would import every vendor's SDK
    module = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
    # One call a step.
    decoded = [[[_text(call)] for call in calls] for calls in turns]
    entry = {
        "initial_config": task.data["config"],
        "involved_classes": task.data["apis"],
        "id": task.id,
    }
    found = module.multi_turn_checker(decoded, task.data["solution"], entry, "", run)
    return bool(found["valid"])


def _text(call: dict[str, Any]) -> str:
    parts = [repr(v) for v in call.get("values", ())]
    parts += [f"{k}={v!r}" for k, v in call["arguments"].items()]
    return f"{call['name']}({', '.join(parts)})"


def _ours(task: Task, turns: list[list[dict[str, Any]]]) -> bool:
    world = Bfcl()
    world.reset(task)
    for calls in turns:
        if calls:
            world.step(calls)  # as one reply: a solution may have more calls than a turn has steps
        world.step([])
    return world.verify().value == 1.0


def _damaged(turns: list[list[dict[str, Any]]], rng: random.Random) -> list[list[dict[str, Any]]]:
    """One change: a call dropped, doubled, moved to the next turn, or with another argument."""
    out = deepcopy(turns)
    place = rng.choice([i for i, calls in enumerate(out) if calls])
    calls = out[place]
    call = rng.randrange(len(calls))
    kind = rng.randrange(4)
    if kind == 0:
        calls.pop(call)
    elif kind == 1:
        calls.insert(call, deepcopy(calls[call]))
    elif kind == 2 and place + 1 < len(out):
        out[place + 1].insert(0, calls.pop(call))
    else:
        for name, value in calls[call]["arguments"].items():
            wrong = value + 1 if isinstance(value, int | float) else f"{value}x"
            calls[call]["arguments"][name] = wrong
            break
    return out


def test_agrees_with_the_package_on_damaged_solutions() -> None:
    """240 solutions with one change each: the same verdict, both ways often enough to mean it."""
    rng, verdicts = random.Random(7), []
    for category in CATEGORIES:
        for task in rng.sample(all_tasks(category), 60):
            world = Bfcl()
            world.reset(task)
            turns = _damaged(world.gold(), rng)
            run = f"damaged{len(verdicts)}"
            expected, got = _official(task, turns, run), _ours(task, turns)
            assert got == expected, (task.id, turns)
            verdicts.append(got)
    assert len(verdicts) == 240 and 30 < sum(verdicts) < 210


HOSTILE = [
    {"name": "__import__('os').system", "arguments": {"command": "true"}},
    {"name": "__class__", "arguments": {}},
    {"name": "__init__", "arguments": {}},
    {"name": "_load_scenario", "arguments": {"scenario": {}}},
    {"name": "long_context", "arguments": {}},
    {"name": "cd", "arguments": {"folder": "__import__('os').getcwd()"}},
    {"name": "ls", "arguments": {"a": "().__class__.__bases__"}},
    {"name": "mean", "arguments": {"numbers": []}},
    {"name": ["cd"], "arguments": {"folder": "document"}},
]


@pytest.mark.parametrize("call", HOSTILE)
def test_a_hostile_call_is_words(call: dict[str, Any]) -> None:
    task = next(t for t in all_tasks("base") if t.data["apis"] == ["GorillaFileSystem"])
    world = Bfcl()
    world.reset(task)
    before = {k: deepcopy(v) for k, v in vars(world._mine["GorillaFileSystem"]).items()}
    (answer,) = world.step([call]).messages
    assert "rror" in answer["content"] or call["name"] == "ls"
    after = vars(world._mine["GorillaFileSystem"])
    assert all(after[k] == v for k, v in before.items() if not k.startswith("_"))


@pytest.mark.parametrize(
    "call",
    [
        {"name": "power", "arguments": {"base": 7, "exponent": 10**6}},
        {"name": "power", "arguments": {"base": 10, "exponent": 4300}},
        {"name": "multiply", "arguments": {"a": 10**4000, "b": 10**4000}},
        {"name": "square_root", "arguments": {"number": 2, "precision": 10**6}},
        {"name": "logarithm", "arguments": {"value": 3, "base": 2, "precision": 10**6}},
    ],
)
def test_numbers_without_end_are_words_too(call: dict[str, Any]) -> None:
    """With three more zeros each would hold the stage for hours; the answer is no broken episode."""
    task = next(t for t in all_tasks("base") if "MathAPI" in t.data["apis"])
    world = Bfcl()
    world.reset(task)
    (answer,) = world.step([call]).messages
    assert answer["content"].startswith("Error during execution: ")
    small = {"name": "power", "arguments": {"base": 2, "exponent": 2000}}
    (answer,) = world.step([small]).messages
    assert answer["content"] == f'{{"result": {2**2000}}}'


@pytest.mark.parametrize(
    "text", ["__import__('os').getcwd()", "f(g(1))", "f(x=[i for i in y])", "1"]
)
def test_solutions_are_read_not_run(text: str) -> None:
    with pytest.raises(ValueError):
        read_call(text)


def test_a_held_out_tool_comes_with_its_turn() -> None:
    task = next(t for t in all_tasks("miss_func") if t.data["late"])
    ((turn, names),) = task.data["late"].items()
    assert not {t["name"] for t in task.tools} & set(names)
    world = Bfcl()
    world.reset(task)
    step = world.step([])
    for _ in range(int(turn) - 1):
        step = world.step([])
    assert step.tools is not None and set(names) <= {t["name"] for t in step.tools}
    assert step.messages[0]["role"] == "user"


def test_too_many_steps_fail_and_so_does_leaving_early() -> None:
    task = all_tasks("base")[0]
    world = Bfcl()
    world.reset(task)
    assert world.verify().value == 0.0
    steps = [world.step([{"name": "ls", "arguments": {}}]) for _ in range(21)]
    assert [s.done for s in steps] == [False] * 20 + [True]
    assert "over 20 steps" in world.verify().parts["reason"]


def test_halves_are_disjoint_across_categories() -> None:
    ids: dict[str, set[str]] = {"train": set(), "test": set()}
    for category in CATEGORIES:
        sizes = []
        for half in ids:
            config = BfclTasks.model_validate(
                {"type": "bfcl", "category": category, "half": half, "distractors": 2}
            )
            with pytest.raises(UserError, match="ask for fewer"):
                bfcl.tasks(config, 201, 1)
            found = bfcl.tasks(config, 80, 1)
            sizes.append(len(found))
            ids[half] |= {t.id.rsplit("_", 1)[1] for t in found}
            # With distractors limited, the solution's own tools are all still there.
            for task in found:
                assert play_gold(Bfcl(), task).value == 1.0
    assert not ids["train"] & ids["test"]


def test_schemas_are_json_schema() -> None:
    kinds = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("type"), str):
                kinds.add(value["type"])
            for inner in value.values():
                walk(inner)

    for category in CATEGORIES:
        for task in all_tasks(category):
            for tool in task.tools:
                assert set(tool) == {"name", "description", "parameters"}
                walk(tool["parameters"])
    assert kinds <= {"object", "string", "integer", "number", "boolean", "array"}
