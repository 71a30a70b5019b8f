"""BFCL's multi-turn tasks over its eight simulated APIs (bfcl-eval 2025.6.16: BFCL v3).

The data, the APIs and the texts are read from the installed package. Its own executor runs `eval` on
what the model wrote; here a call is a name and JSON arguments, looked up with `getattr` among the
documented methods, and the package's own solutions are parsed as literals.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import random
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from environments.config import BfclTasks
from environments.protocol import Step, Task, ToolCall, tool_result
from reward.verdict import Verdict, decided
from workbench.errors import UserError

_SOURCE = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
# API class -> its module and documentation file.
_MODULES = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control",
}  # fmt: skip
APIS = tuple(_MODULES)
# Of a number that a tool may compute; Python writes none of over 4,300 out.
_MOST_DIGITS = 10_000
# The package's types -> JSON schema's.
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class Bfcl:
    """One episode; implements environments.protocol.Environment.

    Scored as by the package: at the end of every user turn that has a solution, the public state of
    every API equals that after the solution, and every answer that the solution got has been seen.
    """

    def __init__(self) -> None:
        self._mine: dict[str, Any] = {}
        self._theirs: dict[str, Any] = {}
        self._data: dict[str, Any] = {}

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._data = task.data
        self._mine, self._theirs = _instances(task.data), _instances(task.data)
        self._turn, self._steps = 0, 0
        self._seen: list[str] = []
        self._wrong = ""
        self._called = False
        self._ended = False

    def step(self, calls: Sequence[ToolCall]) -> Step:
        """See protocol. A reply without a call ends the user's turn, the last turn the episode."""
        self._steps += 1
        if not calls:
            return self._next_turn()
        if self._steps > _step_limit():
            self._wrong = self._wrong or f"over {_step_limit()} steps in turn {self._turn}"
            self._ended = True
            return Step(done=True)
        self._called = True
        answers = [_execute(self._mine, call) for call in calls]
        self._seen += answers
        return Step([tool_result(answer) for answer in answers])

    def verify(self) -> Verdict:
        """See protocol."""
        wrong = self._wrong or ("" if self._ended else f"ended in turn {self._turn}")
        return decided(not wrong, **({"reason": wrong} if wrong else {}))

    def gold(self) -> list[list[ToolCall]]:
        """See protocol."""
        return [[read_call(text) for text in turn] for turn in self._data["solution"]]

    def _next_turn(self) -> Step:
        self._check_turn(self._data["solution"][self._turn])
        self._turn, self._steps, self._called = self._turn + 1, 0, False
        if self._turn == len(self._data["turns"]):
            self._ended = True
            return Step(done=True)
        messages = [dict(m) for m in self._data["turns"][self._turn]]
        late = self._data["late"].get(str(self._turn))
        if late is None:
            return Step(messages)
        messages = [{"role": "user", "content": _more_tools_prompt()}]
        return Step(messages, tools=[_schema(d) for d in self._documents(self._turn)])

    def _check_turn(self, solution: Sequence[str]) -> None:
        gold = [_execute(self._theirs, read_call(text)) for text in solution]
        if self._wrong or not solution:
            return
        where = f"turn {self._turn}"
        if not self._called:
            self._wrong = f"no call in {where}"
        elif differs := _differences(self._mine, self._theirs):
            self._wrong = f"state differs in {where}: {', '.join(differs)}"
        else:
            left = list(self._seen)
            for answer in gold:
                if answer not in left:
                    self._wrong = f"an answer of the solution was never seen in {where}"
                    return
                left.remove(answer)

    def _documents(self, turn: int) -> list[dict[str, Any]]:
        """Documents of the tools on offer in a turn: held-out ones come with theirs."""
        late = {n for t, names in self._data["late"].items() if int(t) > turn for n in names}
        names = [n for n in self._data["names"] if n not in late]
        known = {d["name"]: d for api in self._data["apis"] for d in _documents_of(api)}
        return [known[name] for name in names]


def tasks(config: BfclTasks, n: int, seed: int) -> list[Task]:
    """`n` tasks of the configured half. Raises: UserError where there are fewer."""
    rows = [row for row in _rows(config.category) if _half(row["id"]) == config.half]
    if n > len(rows):
        raise UserError(
            f"bfcl {config.category}/{config.half} has {len(rows)} tasks, {n} were asked for; ask "
            "for fewer"
        )
    random.Random(f"{seed}/{config.category}").shuffle(rows)
    return [make_task(row, config, seed) for row in rows[:n]]


def all_tasks(category: str) -> list[Task]:
    """All 200 tasks of a category, both halves, with all tools."""
    config = BfclTasks.model_validate({"type": "bfcl", "category": category})
    return [make_task(row, config, 0) for row in _rows(category)]


def make_task(row: dict[str, Any], config: BfclTasks, seed: int) -> Task:
    """A row of the package as a task."""
    solution, apis = row["solution"], row["involved_classes"]
    # A method of that name in two APIs is the later one's, as in the package.
    known = {d["name"]: d for api in apis for d in _documents_of(api)}
    late = {str(k): list(v) for k, v in row.get("missed_function", {}).items()}
    needed = {read_call(text)["name"] for turn in solution for text in turn}
    names = list(known)
    if config.distractors is not None:
        needed |= {name for more in late.values() for name in more}
        others = [name for name in names if name not in needed]
        rng = random.Random(f"{seed}/{row['id']}")
        kept = needed | set(rng.sample(others, min(config.distractors, len(others))))
        names = [name for name in names if name in kept]
    first = {name for more in late.values() for name in more}
    return Task(
        id=row["id"],
        environment="bfcl",
        messages=[dict(m) for m in row["question"][0]],
        tools=[_schema(known[name]) for name in names if name not in first],
        data={
            "apis": apis,
            "config": row["initial_config"],
            "long": "long_context" in row["id"],
            "turns": row["question"],
            "solution": solution,
            "late": late,
            "names": names,
        },
    )


def read_call(text: str) -> ToolCall:
    """A solution's call, `name(key=literal, ...)`, without running it.

    Raises: ValueError where it is anything else.
    """
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"not a plain call: {text[:80]!r}")
    arguments = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    values = [ast.literal_eval(value) for value in node.args]
    return {"name": node.func.id, "arguments": arguments, **({"values": values} if values else {})}


def _execute(instances: dict[str, Any], call: ToolCall) -> str:
    """The answer as text, in the package's own form.

    Every documented method of the task's APIs works, on offer or not, as in the package: the solution
    of multi_turn_miss_func_49 itself calls a tool before it is offered.
    """
    name = call.get("name")
    owner = _owner(instances, name)
    if owner is None:
        return f"Error during execution: name '{str(name)[:60]}' is not defined"
    if _is_endless(str(name), call["arguments"]):
        return "Error during execution: the numbers are too large"
    try:
        return _text(getattr(owner, str(name))(*call.get("values", ()), **call["arguments"]))
    except Exception as error:  # noqa: BLE001 - a tool's error is text for the model
        return f"Error during execution: {error}"


def _is_endless(name: str, arguments: dict[str, Any]) -> bool:
    """Whether MathAPI would work on the answer for minutes, or years, in this process."""
    digits = arguments.get("precision", 0)
    if name in ("logarithm", "square_root"):
        return isinstance(digits, int | float) and digits > _MOST_DIGITS
    base, exponent = arguments.get("base"), arguments.get("exponent")
    if name == "power" and isinstance(base, int) and isinstance(exponent, int):
        return base.bit_length() * exponent > 4 * _MOST_DIGITS
    return False


def _text(result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def _owner(instances: dict[str, Any], name: Any) -> Any:
    if not isinstance(name, str):
        return None
    found = None
    for api, instance in instances.items():
        if name in _methods(api):
            found = instance
    return found


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Public attributes in which the two worlds differ."""
    return [
        f"{api}.{name}"
        for api, instance in theirs.items()
        for name, value in vars(instance).items()
        if not name.startswith("_") and getattr(mine[api], name) != value
    ]


def _instances(data: dict[str, Any]) -> dict[str, Any]:
    """Fresh APIs: the package keeps its own in module globals, where episodes would meet."""
    made = {}
    for api in data["apis"]:
        instance = made[api] = _class_of(api)()
        if hasattr(instance, "_load_scenario"):
            scenario = deepcopy(data["config"].get(api, {}))
            instance._load_scenario(scenario, long_context=data["long"])
    return made


@cache
def _class_of(api: str) -> type[Any]:
    _root()
    found: type[Any] = getattr(importlib.import_module(f"{_SOURCE}.{_MODULES[api]}"), api)
    return found


@cache
def _methods(api: str) -> frozenset[str]:
    """Documented methods of an API: the only names that are looked up."""
    own = {n for n, _ in inspect.getmembers(_class_of(api), inspect.isfunction)}
    return frozenset(d["name"] for d in _documents_of(api) if d["name"] in own)


@cache
def _documents_of(api: str) -> tuple[dict[str, Any], ...]:
    path = _root() / "data" / "multi_turn_func_doc" / f"{_MODULES[api]}.json"
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _schema(document: dict[str, Any]) -> dict[str, Any]:
    """The document as a JSON-schema tool: no `response`, and JSON's type names."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: _TYPES.get(v, v) if k == "type" and isinstance(v, str) else convert(v)
                for k, v in value.items()
            }
        return [convert(v) for v in value] if isinstance(value, list) else value

    return {
        "name": document["name"],
        "description": document["description"],
        "parameters": convert(document["parameters"]),
    }


@cache
def _rows_of(category: str) -> tuple[dict[str, Any], ...]:
    name = f"BFCL_v3_multi_turn_{category}.json"
    questions = _lines(_root() / "data" / name)
    answers = {a["id"]: a for a in _lines(_root() / "data" / "possible_answer" / name)}
    rows = []
    for question in questions:
        solution = answers[question["id"]]["ground_truth"]
        last = len(question["question"]) - 1
        # multi_turn_base_154 of 2025.6.16 has one solution turn more than requests: it belongs to the
        # last one, or nobody could solve the task.
        folded = [*solution[:last], [call for turn in solution[last:] for call in turn]]
        rows.append({**question, "solution": folded})
    return tuple(rows)


def _rows(category: str) -> list[dict[str, Any]]:
    return list(_rows_of(category))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _half(identity: str) -> str:
    """Half of the task's number: the four categories are variants of the same 200 tasks."""
    number = identity.rsplit("_", 1)[1]
    return "train" if blake2b(number.encode(), digest_size=1).digest()[0] % 2 else "test"


def _step_limit() -> int:
    return int(_prompts().MAXIMUM_STEP_LIMIT)


def _more_tools_prompt() -> str:
    return str(_prompts().DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC)


@cache
def _prompts() -> Any:
    _root()
    return importlib.import_module("bfcl_eval.constants.default_prompts")


@cache
def _root() -> Path:
    found = importlib.util.find_spec("bfcl_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError("environment bfcl needs the package bfcl-eval (requirements/cpu.txt)")
    return Path(next(iter(found.submodule_search_locations)))
