"""Benchmarks of one's own: a file of conversations with checks, or a Python function that makes them.

`own:FILE` (JSON lines, .json, .csv, .parquet) and `FILE.py:NAME` (or `package.module:NAME`). A row::

    {"prompt": "6 x 7?", "answer": "42"}                                  checked as mathematics
    {"prompt": "Say hi.", "answer": null, "check": "mine.py:polite"}      by a function of your own
    {"id": "a", "messages": [...], "tools": [...], "check": {"kind": "tools", "reference": [...]}}

Other keys: id, domain, problem (questions that ask the same in other words have one), options (of the
check). The function takes nothing and returns or yields rows; or a mapping of `questions` and of fields of
the protocol (samples, max_tokens, temperature, top_p, thinking), `about` too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Placed, read_rows
from evals.sources import Data, Loading
from reward.dispatch import CHECKERS
from reward.plugin import FunctionConfig, check_config, is_plugin, produced
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError, unknown_name

PREFIX = "own:"
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_KEYS = (
    "id", "domain", "problem", "prompt", "messages", "answer", "check", "options", "tools", "system",
)  # fmt: skip
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
    if not isinstance(found, list) or not found:
        shown = "nothing" if not found else f"a {type(found).__name__}"
        raise UserError(f"benchmark {name!r} returned {shown}; return a list of questions")
    return found, more


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
    given = {key: value for key, value in row.items() if value is not None}
    odd = next((key for key in row if key not in _KEYS), None)
    if odd is not None:
        raise UserError(f"{where}: {unknown_name('key', str(odd), _KEYS)}")
    return Conversation(
        id=str(given.get("id", own_id)),
        domain=str(given.get("domain", domain)),
        messages=_messages(given, where),
        tools=given.get("tools"),
        check=_check(given, where),
        problem=str(given["problem"]) if "problem" in given else None,
    )


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
    spec = given.get("check", "math")
    body: dict[str, Any] = {"kind": spec} if isinstance(spec, str) else {}
    if isinstance(spec, Mapping):
        body = dict(spec)
    if not isinstance(body.get("kind"), str) or body.keys() - {"kind", "reference", "options"}:
        raise UserError(
            f"{where}: check is {spec!r:.80}; give the name of a check, or {{kind, reference, options}}"
        )
    body.setdefault("reference", given.get("answer"))
    body["options"] = {**(body.get("options") or {}), **(given.get("options") or {})}
    kind, options = body["kind"], body["options"]
    try:
        if is_plugin(kind):
            check_config(FunctionConfig(path=kind, options=options))
        elif kind not in CHECKERS:
            raise unknown_name("kind of check", kind, CHECKERS)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if body["kind"] == "math" and body["reference"] is None:
        raise UserError(f"{where} has no answer; give one, or a check of your own")
    if body["kind"] == "math":
        body["reference"] = str(body["reference"])
    return CheckSpec(**body)


def _slug(text: str) -> str:
    return "own-" + re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace(".py:", "-")).strip("-.")
