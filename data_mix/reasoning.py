"""Tasks of the package reasoning-gym whose answer is one number, in a split of our own.

The split is by problem: the numbers and signs of an expression in sorted order (of other questions, their
words). So `7 + 5` and `5 + 7` are one problem, in any wording and whatever the seed, and no problem of
a training prompt stands in a test prompt.
Rewards are not the package's (its usual scorer pays for a text that merely holds the answer): the value
is 1 where the reply states the number last, else 0; repeating the question states none. Nor are all its
answer keys right: 0.1.25 keys `Evaluate: 4 / 1.` with 2 where brackets are off. A question whose
expression has a value different from its key is left out.
"""

import ast
import importlib
import operator
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_mix.reasoning_names import REASONING_TASKS
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

# Share of the problems that is held out.
_TEST_SHARE = 0.3
# So many problems in a row that are known or of the other split: the task has no more.
_MAX_MISSES = 1000

Settings = Mapping[str, Any]


def reasoning_conversations(
    tasks: Mapping[str, Settings], split: str, count: int, *, seed: int, system: str | None = None
) -> list[Conversation]:
    """At most `count` different questions of a split, the tasks in turn, with their checks.

    tasks: task -> settings of the package's own configuration. system: a message put first. Raises:
    UserError where the package is missing or refuses the settings.
    """
    streams = [_questions(name, settings, split, seed) for name, settings in tasks.items()]
    found: list[Conversation] = []
    while streams and len(found) < count:
        for stream in list(streams):
            item = next(stream, None)
            if item is None:
                streams.remove(stream)
            elif len(found) < count:
                found.append(_conversation(item, split, system))
    return found


def problem_key(item: Mapping[str, Any]) -> str:
    """What the item asks, whatever its order, wording and brackets.

    >>> problem_key({"metadata": {"expression": "(7 + 5)"}})
    '+ 5 7'
    """
    expression = item["metadata"].get("expression")
    if expression is not None:
        return " ".join(sorted(re.findall(r"\d+|[-+*/]", expression)))
    return " ".join(sorted(re.findall(r"\w+", item["question"])))


def is_right(item: Mapping[str, Any]) -> bool:
    """Whether the answer key is the value of the item's expression; True where it has none."""
    expression = item["metadata"].get("expression")
    if expression is None:
        return True
    try:
        return _value(ast.parse(expression, mode="eval").body) == Fraction(str(item["answer"]))
    except ZeroDivisionError:
        return False


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATIONS[type(sign)](_value(left), _value(right))
    raise ValueError(f"an expression with {ast.dump(node)[:60]}")


def split_of(key: str) -> str:
    """The split that owns a problem, whatever its task's seed."""
    number = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
    return "test" if number / 2**64 < _TEST_SHARE else "train"


def _questions(name: str, settings: Settings, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """The task's different questions of a split, until it has hardly any more."""
    dataset = _dataset(name, settings, seed)
    seen: set[str] = set()
    index = misses = 0
    while misses < _MAX_MISSES:
        item = dataset[index]
        index += 1
        question = str(item["question"])
        other = split_of(problem_key(item)) != split
        if question in seen or other or not is_right(item):
            misses += 1
            continue
        misses = 0
        seen.add(question)
        yield {"id": f"{name}-{split}-{seed}-{index}", "task": name, **item}


def _conversation(item: Mapping[str, Any], split: str, system: str | None) -> Conversation:
    first = [{"role": "system", "content": system}] if system else []
    answer = str(item["answer"])
    return Conversation(
        id=str(item["id"]),
        domain=str(item["task"]),
        messages=[
            *first,
            {"role": "user", "content": str(item["question"])},
            {"role": "assistant", "content": answer},
        ],
        check=CheckSpec("math", answer, {"number": True}),
        thinking=False,
        problem=problem_key(item),
    )


def _dataset(name: str, settings: Settings, seed: int) -> Any:
    make = _factory(name)
    try:
        return make(name, seed=seed, size=2**31, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(
            f"reasoning-gym refuses the settings {dict(settings)} of task {name!r}: {error}"
        ) from None


@cache
def _factory(name: str) -> Any:
    """The package's `create_dataset`, knowing one task.

    Importing the package whole asks for ten more packages, most of which other tasks need; so its
    folders stand in for their own `__init__`.
    """
    spec = find_spec("reasoning_gym")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("reasoning-gym is not installed; run scripts/setup.sh real")
    root = Path(next(iter(spec.submodule_search_locations)))
    folder = REASONING_TASKS[name]
    stand_ins = {"reasoning_gym": root, f"reasoning_gym.{folder}": root / folder}
    before = {key: sys.modules.pop(key) for key in stand_ins if key in sys.modules}
    try:
        for package, path in stand_ins.items():
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(path)]
        importlib.import_module(f"reasoning_gym.{folder}.{name}")
        return importlib.import_module("reasoning_gym.factory").create_dataset
    finally:
        for package in stand_ins:
            sys.modules.pop(package, None)
        sys.modules.update(before)
