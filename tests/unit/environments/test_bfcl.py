"""BFCL's episodes: all 800 solutions verify, judged as the package judges, and nothing is evaluated."""

import random
from copy import deepcopy
from typing import Any

import pytest

from environments.bfcl import tasks as bfcl
from environments.bfcl import worker
from environments.bfcl.tasks import solvable, task_of
from environments.bfcl.world import Bfcl, call_string, is_endless, step_limit
from environments.config import BfclTasks
from environments.episode import Episode
from environments.protocol import Task, calling, play_gold
from reward.bfcl import APIS, UNSATISFIABLE, documents, entries, official
from reward.workers import shared_pool
from workbench.chat import Reply
from workbench.errors import UserError

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")


def all_tasks(category: str) -> list[Task]:
    return [task_of(solvable(entry)) for entry in entries(f"multi_turn_{category}")]


def test_all_800_solutions_verify() -> None:
    counts = {
        c: sum(play_gold(Bfcl(), task).value == 1.0 for task in all_tasks(c)) for c in CATEGORIES
    }
    assert counts == dict.fromkeys(CATEGORIES, 200)


def test_an_episode_may_be_asked_again() -> None:
    task = all_tasks("base")[0]
    world = Bfcl()
    world.reset(task)
    for calls in world.gold():
        world.step(calling(*calls))
        world.step(calling())
    assert [world.verify().value for _ in range(2)] == [1.0, 1.0]
    entry = next(
        e for e in entries("multi_turn_base") if e["involved_classes"] == ["GorillaFileSystem"]
    )
    steps = [["mkdir(dir_name='new')"], ["mkdir(dir_name='other')"]]
    first = worker.play("again", entry, steps)
    assert worker.play("again", entry, steps) == first
    assert worker.play("again", entry, [*steps, ["ls()"]]) == worker.play(
        "afresh", entry, [*steps, ["ls()"]]
    )


def test_as_the_package_has_them_one_of_the_800_cannot_be_solved() -> None:
    """Its runner asks five times and compares with six turns."""
    odd = [
        entry
        for category in CATEGORIES
        for entry in entries(f"multi_turn_{category}")
        if len(entry["question"]) != len(entry["ground_truth"])
    ]
    assert [entry["id"] for entry in odd] == ["multi_turn_base_154"]
    assert odd[0]["id"] in UNSATISFIABLE and solvable(odd[0]) != odd[0]
    found = play_gold(Bfcl(), task_of(odd[0]))
    assert (found.value, found.parts["error_type"]) == (0.0, "multi_turn:force_terminated")
    whole = entries("multi_turn_base")[0]
    assert solvable(whole) == whole


def test_all_800_solutions_pass_the_packages_checker() -> None:
    """As it is asked: each turn's gold calls as its one step."""
    for category in CATEGORIES:
        for entry in entries(f"multi_turn_{category}"):
            turns = [[calls] if calls else [] for calls in entry["ground_truth"]]
            assert worker.judge("gold", entry, turns, entry["ground_truth"])["valid"], entry["id"]
    # The package keeps its APIs by name: nothing of ours stays for the next episode.
    kept = vars(official("eval_checker.multi_turn_eval.multi_turn_utils"))
    assert not [name for name in kept if name.startswith("judged")]


def test_there_are_129_tools_which_are_all_public_methods() -> None:
    # Lines of the package's documents in 2025.6.16, API by API (the 2026.3.23 release has 128).
    counts = {api: len(documents(api)) for api in APIS}
    assert list(counts.values()) == [18, 17, 10, 14, 9, 22, 17, 22] and sum(counts.values()) == 129
    for api, module in APIS.items():
        source = official(f"eval_checker.multi_turn_eval.func_source_code.{module}")
        methods = {n for n, f in vars(getattr(source, api)).items() if callable(f) and n[0] != "_"}
        assert methods == {document["name"] for document in documents(api)}


def _official(task: Task, turns: list[list[dict[str, Any]]]) -> bool:
    """The package's own checker on the same calls, in Python syntax (ours, so its eval is safe)."""
    module = official("eval_checker.multi_turn_eval.multi_turn_checker")
    # One call a step.
    decoded = [[[_text(call)] for call in calls] for calls in turns]
    entry = {
        "initial_config": task.data["config"],
        "involved_classes": task.data["apis"],
        "id": task.id,
    }
    _RUNS.append(task.id)
    run = f"damaged{len(_RUNS)}"
    found = module.multi_turn_checker(decoded, task.data["solution"], entry, "", run)
    return bool(found["valid"])


_RUNS: list[str] = []


def _text(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})"


def _ours(task: Task, turns: list[list[dict[str, Any]]]) -> bool:
    world = Bfcl()
    world.reset(task)
    for calls in turns:
        if calls:  # as one reply: a solution may have more calls than a turn has steps
            world.step(calling(*calls))
        world.step(calling())
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
            expected, got = _official(task, turns), _ours(task, turns)
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


def _files_world() -> Bfcl:
    world = Bfcl()
    world.reset(next(t for t in all_tasks("base") if t.data["apis"] == ["GorillaFileSystem"]))
    return world


@pytest.mark.parametrize("call", HOSTILE)
def test_a_hostile_call_is_words(call: dict[str, Any]) -> None:
    world, quiet = _files_world(), _files_world()
    (answer,) = world.step(calling(call)).messages
    assert "rror" in answer["content"] or call["name"] == "ls"
    # Nothing has moved: what lies there is what lies in a world that nobody touched.
    look = calling({"name": "find", "arguments": {}}, {"name": "pwd", "arguments": {}})
    assert world.step(look).messages == quiet.step(look).messages


@pytest.mark.parametrize(
    "call",
    [
        {"name": "__import__", "arguments": {"name": "os"}},
        {"name": "eval", "arguments": {"x": "1"}},
        {"name": "cd", "arguments": {"folder=''); import os; (x": 1}},
        {"name": "cd(folder='a'); ls", "arguments": {}},
        {"name": ["cd"], "arguments": {}},
    ],
)
def test_nothing_that_a_model_writes_is_evaluated(call: dict[str, Any]) -> None:
    assert call_string(call, {"cd", "ls"}) == "undefined_function()"


def _math_world() -> Bfcl:
    world = Bfcl()
    world.reset(next(t for t in all_tasks("base") if "MathAPI" in t.data["apis"]))
    return world


@pytest.mark.parametrize(
    "call",
    [
        {"name": "power", "arguments": {"base": 7, "exponent": 10**6}},
        {"name": "power", "arguments": {"base": 7, "exponent": 10**9}},
        {"name": "power", "arguments": {"base": 10, "exponent": 4300}},
        {"name": "multiply", "arguments": {"a": 10**4000, "b": 10**4000}},
        {"name": "square_root", "arguments": {"number": 2, "precision": 10**6}},
        {"name": "square_root", "arguments": {"number": 2, "precision": 10**8}},
        {"name": "logarithm", "arguments": {"value": 3, "base": 2, "precision": 10**6}},
    ],
)
def test_numbers_without_end_are_words_too(call: dict[str, Any]) -> None:
    """With three more zeros each would hold the stage for hours; the answer is not a broken episode."""
    world = _math_world()
    (answer,) = world.step(calling(call)).messages
    assert answer["content"].startswith("Error during execution: ")
    if is_endless(call):
        assert answer["content"] == "Error during execution: the numbers are too large"
    small = {"name": "power", "arguments": {"base": 2, "exponent": 2000}}
    (answer,) = world.step(calling(small)).messages
    assert answer["content"] == f'{{"result": {2**2000}}}'
    while not world.step(calling()).done:
        pass
    assert world.verify().value == 0.0


def test_what_the_package_computes_in_seconds_it_computes() -> None:
    """The training environment refused 10,001 digits, the benchmark let the package work on 100,000."""
    ask = {"name": "square_root", "arguments": {"number": 2, "precision": 20_000}}
    (answer,) = _math_world().step(calling(ask)).messages
    assert (
        answer["content"].startswith("{'result': Decimal('1.41421356")
        and len(answer["content"]) > 20_000
    )


def test_an_unknown_name_is_an_error_that_the_model_reads() -> None:
    (answer,) = _files_world().step(calling({"name": "no_such", "arguments": {}})).messages
    said = "Error during execution: name 'no_such' is not defined"
    assert answer == {"role": "tool", "content": said}


def test_a_held_out_tool_comes_with_its_turn_behind_the_others() -> None:
    said = official("constants.default_prompts").DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
    task = next(t for t in all_tasks("miss_func") if "3" in t.data["late"])
    (missing,) = task.data["late"]["3"]
    episode = Episode(Bfcl(), task)
    for turn in range(4):
        asked = episode.ask()
        assert asked is not None and asked.tools is not None
        names = [tool["name"] for tool in asked.tools]
        # The official runner appends them, wherever their document stands.
        assert (missing in names) == (turn == 3) == (names[-1] == missing)
        assert (asked.messages[-1]["content"] == said) == (turn == 3)
        episode.answer(Reply("", "No.", None, True))


def test_too_many_steps_fail_and_so_does_leaving_early() -> None:
    assert step_limit() == 20
    world = Bfcl()
    world.reset(all_tasks("base")[0])
    assert world.verify().value == 0.0
    look = calling({"name": "ls", "arguments": {}})
    steps = [world.step(look) for _ in range(21)]
    assert [s.done for s in steps] == [False] * 20 + [True]
    assert "over 20 steps" in world.verify().parts["reason"]
    assert world.verify().parts["error_type"] == "multi_turn:force_terminated"


def test_doing_nothing_fails() -> None:
    world = Bfcl()
    world.reset(all_tasks("base")[1])
    while not world.step(Reply("", "No.", None, True)).done:
        pass
    found = world.verify()
    assert (found.value, found.parts["error_type"]) == (
        0.0, "multi_turn:empty_turn_model_response"
    )  # fmt: skip


def test_a_world_goes_on_in_another_process() -> None:
    """The APIs live in a checking process, which may be killed at any time."""
    call = {"name": "mkdir", "arguments": {"dir_name": "new"}}
    look = calling({"name": "find", "arguments": {}})
    moved, stayed = _files_world(), _files_world()
    for world in (moved, stayed):
        world.step(calling(call))
    shared_pool().close()  # kills those that are idle
    expected = worker.play(
        "alone",
        {
            "id": moved._data["id"],
            "initial_config": moved._data["config"],
            "involved_classes": moved._data["apis"],
        },
        [["mkdir(dir_name='new')"], ["find()"]],
    )
    assert [m["content"] for m in moved.step(look).messages] == expected
    # Two worlds of one task do not meet.
    assert stayed.step(look).messages == moved.step(look).messages[:1]


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
