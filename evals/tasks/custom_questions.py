"""Benchmarks of one's own: a file of conversations with checks, or a Python function that makes them.

`own:FILE` (JSON lines, .json, .csv, .parquet) and `FILE.py:NAME` (or `package.module:NAME`). A row::

    {"prompt": "6 x 7?", "answer": "42"}                                  checked as mathematics
    {"prompt": "Say hi.", "answer": "hi", "check": "contains"}            or a list of texts
    {"prompt": "Say hi.", "answer": null, "check": "mine.py:polite"}      by a function of your own
    {"id": "a", "messages": [...], "tools": [...], "check": {"kind": "tools", "reference": [...]}}

Other keys: id, domain, problem (questions that ask the same in other words have one), options (of the
check). The function takes nothing and returns or yields rows; or a mapping of `questions` and of fields of
the protocol (samples, max_tokens, temperature, top_p, thinking), `about` too.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.config import OneBenchmark
from evals.custom_files import Placed, answer, read_rows
from evals.sources import Data, Loading
from reward.options import check_reference
from reward.plugin import produced
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError, unknown_name

PREFIX = "own:"
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_KEYS = (
    "id", "domain", "problem", "prompt", "messages", "answer", "check", "options", "tools", "system",
)  # fmt: skip
_SHAPES = {
    "messages": "list of {role, content}", "tools": "list of {name, description, parameters}",
    "options": "mapping", "check": "name or a mapping",
}  # fmt: skip
_PROTOCOL = {field.name for field in fields(BenchmarkSampling)} - {"source"}
_LONGEST_REPLY = 4096
_OURS = BenchmarkSampling(max_tokens=_LONGEST_REPLY, source="your own")


def custom_questions(name: str) -> Benchmark:
    """own:FILE  your own questions with checks, one a line (docs/evals.md, "Your own benchmark")

    Raises: UserError where the file is not there or is of no kind that is read.
    """
    path = Path(name.removeprefix(PREFIX)).expanduser()
    if path.suffix not in _SUFFIXES:
        raise UserError(f"benchmark {name!r}: give a file that ends in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"benchmark {name!r}: there is no file {str(path.resolve())!r}")

    def load(loading: Loading) -> list[Conversation]:
        rows = read_rows(path)
        return _questions(rows, name, loading.limit, default=path.stem)

    return Benchmark(
        _slug(path.stem), f"your own questions in {path}", Data(str(path)), load, _OURS
    )


def python_questions(name: str) -> Benchmark:
    """FILE.py:NAME  your own questions, made by a function (docs/evals.md, "Your own benchmark")"""

    def load(loading: Loading) -> list[Conversation]:
        placed = [(f"{name}, question {n}", row) for n, row in enumerate(_made(name)[0], 1)]
        return _questions(placed, name, loading.limit, default=_slug(name))

    rows, more = _made(name)
    protocol = {key: value for key, value in more.items() if key in _PROTOCOL}
    about = str(more.get("about") or f"your own questions, made by {name}")
    sampled = BenchmarkSampling(**{"max_tokens": _LONGEST_REPLY, "source": "your own", **protocol})
    return Benchmark(_slug(name), f"{about} ({len(rows)} questions)", Data(name), load, sampled)


def _made(name: str) -> tuple[list[Any], dict[str, Any]]:
    """The rows that a function makes, and what it says beside them. Raises: UserError."""
    path, _, function = name.rpartition(":")
    stamp = Path(path).stat().st_mtime_ns if Path(path).is_file() else 0
    return _produced(f"{path}:{function}", stamp)


@cache
def _produced(name: str, stamp: int) -> tuple[list[Any], dict[str, Any]]:
    found = produced(name)
    more: dict[str, Any] = {}
    if isinstance(found, Mapping):
        more = {key: value for key, value in found.items() if key != "questions"}
        odd = next((key for key in more if key not in _PROTOCOL | {"about"}), None)
        if odd is not None:
            raise unknown_name(
                f"key of what {name} returns", odd, [*_PROTOCOL, "about", "questions"]
            )
        found = found.get("questions")
    _must_be_protocol(name, more)
    if not isinstance(found, list) or not found:
        shown = "nothing" if not found else f"a {type(found).__name__}"
        raise UserError(f"benchmark {name!r} returned {shown}; return a list of questions")
    return found, {key: value for key, value in more.items() if value is not None}


def _must_be_protocol(name: str, more: Mapping[str, Any]) -> None:
    """Raises: UserError where a field of the protocol is not what a recipe could say."""
    said = {key: value for key, value in more.items() if key in OneBenchmark.model_fields}
    try:
        OneBenchmark.model_validate(said, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong, must = first["loc"][0], first["msg"].removeprefix("Input should be ")
        raise UserError(
            f"benchmark {name!r}: {wrong} is {first['input']!r:.60}; it must be {must}"
        ) from None
    if not isinstance(more.get("thinking"), bool | None):
        raise UserError(
            f"benchmark {name!r}: thinking is {more['thinking']!r:.60}; it must be true or false"
        )


def _questions(
    placed: Iterable[Placed], name: str, limit: int | None, *, default: str
) -> list[Conversation]:
    found: list[Conversation] = []
    seen: dict[str, str] = {}
    for number, (where, row) in enumerate(placed, 1):
        question = _question(row, where, f"{default}-{number}", default)
        if question.id in seen:
            raise UserError(f"{where}: id {question.id!r} is that of {seen[question.id]} too")
        seen[question.id] = where
        found.append(question)
    if not found:
        raise UserError(f"benchmark {name!r} holds no questions")
    return found[:limit]


def _question(row: Any, where: str, own_id: str, domain: str) -> Conversation:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where} is a {type(row).__name__}; give a mapping such as {{prompt, answer}}"
        )
    odd = next((key for key in row if key not in _KEYS), None)
    if odd is not None:
        raise UserError(f"{where}: {unknown_name('key', str(odd), _KEYS)}")
    # An empty cell of a CSV says nothing; an empty answer may be one to a check of one's own.
    there = {k: v for k, v in row.items() if v is not None and (v != "" or k == "answer")}
    given = {key: _structured(key, value, where) for key, value in there.items()}
    return Conversation(
        id=str(given.get("id", own_id)),
        domain=str(given.get("domain", domain)),
        messages=_messages(given, where),
        tools=_tools(given.get("tools"), where),
        check=_check(given, where),
        problem=str(given["problem"]) if "problem" in given else None,
    )


def _structured(key: str, value: Any, where: str) -> Any:
    """A value, or what a text stands for where a CSV's cell has to hold a list or a mapping."""
    if not isinstance(value, str) or key not in ("messages", "tools", "options", "check"):
        return value
    if key == "check" and not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(
            f"{where}: {key} is {value!r:.60}; give a {_SHAPES[key]}, in a CSV as JSON"
        ) from None


def _tools(given: Any, where: str) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    wrong = (
        given if not isinstance(given, list) else next((t for t in given if not _is_tool(t)), None)
    )
    if wrong is not None:
        raise UserError(f"{where}: tools has {wrong!r:.60}; give a {_SHAPES['tools']}")
    return [dict(tool) for tool in given]


def _is_tool(given: Any) -> bool:
    inner = given.get("function", given) if isinstance(given, Mapping) else None
    return isinstance(inner, Mapping) and isinstance(inner.get("name"), str)


def _messages(given: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if ("prompt" in given) == ("messages" in given):
        raise UserError(f"{where}: give either prompt (a text) or messages (a list)")
    if "prompt" in given:
        if not isinstance(given["prompt"], str) or not given["prompt"].strip():
            raise UserError(f"{where}: prompt is {given['prompt']!r:.60}; give a text")
        system = [{"role": "system", "content": str(given["system"])}] if "system" in given else []
        return [*system, {"role": "user", "content": given["prompt"]}]
    messages = given["messages"]
    whole = isinstance(messages, list) and all(
        isinstance(m, dict) and "role" in m for m in messages
    )
    if not whole or not messages or messages[-1]["role"] == "assistant":
        raise UserError(
            f"{where}: messages is not a list of {{role, content}} that ends with what is asked"
        )
    return [dict(message) for message in messages]


def _check(given: Mapping[str, Any], where: str) -> CheckSpec:
    """The row's check, tried on a reply. Raises: UserError where no reply could be judged by it."""
    asked = given.get("check", "math")
    body = dict(asked) if isinstance(asked, Mapping) else {"kind": asked}
    if not isinstance(body.get("kind"), str) or body.keys() - {"kind", "reference", "options"}:
        raise UserError(
            f"{where}: check is {asked!r:.80}; give the name of a check, or {{kind, reference, options}}"
        )
    options: dict[str, Any] = {}
    for found in (body.get("options"), given.get("options")):
        if not isinstance(found, Mapping | None):
            raise UserError(
                f"{where}: options is {found!r:.60}; give a mapping, the check's own: what a question "
                "offers to choose from stands in its prompt"
            )
        options |= found or {}
    reference = body.get("reference", given.get("answer"))
    spec = CheckSpec(body["kind"], _reference(body["kind"], reference, where), options)
    try:
        check_reference(spec, {})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return spec


def _reference(kind: str, given: Any, where: str) -> Any:
    """As its check takes it: the text of a mathematical answer, and of `contains` a list of texts."""
    if kind == "math":
        if given is None:
            raise UserError(f"{where} has no answer; give one, or a check of your own")
        try:
            return answer(given)
        except ValueError as error:
            raise UserError(f"{where}: answer is {given!r:.60}; {error}") from None
    if kind == "contains" and isinstance(given, str | int | float) and given != "":
        return [answer(given)] if not isinstance(given, bool) else given
    return given


def _slug(text: str) -> str:
    return "own-" + re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace(".py:", "-")).strip("-.")
