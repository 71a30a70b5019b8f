"""Tasks of an environment of the user's own: from its class, or from a file's rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from data_mix.files import json_object, lines_of
from environments.config import OwnTasks
from environments.custom.world import WORKER
from environments.protocol import Task
from reward.plugin import ask_description, stamp_of
from reward.workers import WorkerPool
from workbench.content import Contents, Reads
from workbench.conversation import Message
from workbench.custom_code import target_of
from workbench.errors import UserError, unknown_name
from workbench.identity import row_id

_DRAW_LIMIT_S = 120.0


@dataclass(frozen=True)
class ClassDescription:
    """What a class has. options: keyword arguments of its constructor; None: it takes any."""

    tools: list[dict[str, Any]]
    options: tuple[str, ...] | None
    has_tasks: bool
    has_call: bool
    """Whether it carries out tools that are not methods of it."""
    has_task_of: bool
    """Whether it makes tasks of a file's rows."""


def describe(path: str) -> ClassDescription:
    """Load the class in a process. Raises: UserError where it does not import or is not an environment."""
    return _describe(path, stamp_of(path))


def check_own(config: OwnTasks) -> None:
    """Raises: UserError where the class, its options or where its tasks come from is wrong."""
    found = describe(config.type)
    for name in config.options:
        if found.options is not None and name not in found.options:
            raise unknown_name(
                f"option of {config.type}", name, [*found.options, *OwnTasks.model_fields]
            )
    try:
        json.dumps(config.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"options of {config.type}: {error}; use plain values") from None
    if config.rows is None and not found.has_tasks:
        raise UserError(
            f"environment {config.type!r} has no tasks: give `rows: FILE.jsonl`, or the class a method "
            "tasks(self, split, n, seed)"
        )
    if config.rows is not None and not Path(config.rows).expanduser().is_file():
        raise UserError(f"environment {config.type!r}: there is no file {config.rows!r}")


def tasks(config: OwnTasks, n: int, seed: int, *, fewer: bool = False) -> list[Task]:
    """`n` different tasks; with `fewer` all there are, where that is less. Raises: UserError where there
    are not enough, or one of them cannot be asked."""
    check_own(config)
    described = describe(config.type)
    rows = _drawn(config, n, seed) if config.rows is None else _read(config, n, seed)
    more = _asked(config, "documents") if described.has_call else []
    known = [*described.tools, *(_document(config.type, tool, "documents") for tool in more)]
    tools = {tool["name"]: tool for tool in known}
    own = config.model_dump(exclude={"rows", "split"}) | {"source": _digest(config.type)}
    made = [_task(config, row, tools, own, place) for place, row in rows]
    if not made:
        raise UserError(f"environment {config.type!r} has no tasks of split {config.split!r}")
    if len(made) < n and not fewer:
        raise UserError(
            f"environment {config.type!r} has {len(made)} tasks of split {config.split!r}, {n} were "
            "asked for; ask for fewer"
        )
    return made


def _drawn(config: OwnTasks, n: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    drawn = _asked(config, "tasks", config.split, n, seed)
    return [(f"{config.split}-{seed}-{number}", row) for number, row in enumerate(drawn)]


def _asked(config: OwnTasks, function: str, *more: Any) -> list[dict[str, Any]]:
    """What the class says, in a process of its own. Raises: UserError where it fails."""
    pool = WorkerPool(1, int(config.memory_gb * 2**30))
    arguments = [target_of(config.type), config.options, *more]
    try:
        done = pool.call(f"{WORKER}:{function}", arguments, timeout_s=_DRAW_LIMIT_S)
    finally:
        pool.close()
    if done.status != "ok":
        raise UserError(f"environment {config.type!r}: {function}: {done.reason}")
    found: list[dict[str, Any]] = done.value
    return found


def _read(config: OwnTasks, n: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """`n` rows of the file, in an order of the seed's."""
    assert config.rows is not None
    found = []
    for number, _, line in lines_of(Path(config.rows).expanduser()):
        place = f"{config.rows}, line {number}"
        found.append((place, json_object(line, where=place)))
    Random(f"{seed}/{config.split}").shuffle(found)
    places, rows = [place for place, _ in found[:n]], [row for _, row in found[:n]]
    if describe(config.type).has_task_of:
        rows = _asked(config, "tasks_of", rows)
    for place, row in zip(places, rows, strict=True):
        if not isinstance(row, dict):
            raise UserError(
                f"environment {config.type!r}, {place}: task_of returned {row!r:.60}; it must return a "
                "mapping with a prompt"
            )
    return list(zip(places, rows, strict=True))


def _task(
    config: OwnTasks,
    row: dict[str, Any],
    tools: Mapping[str, dict[str, Any]],
    own: dict[str, Any],
    place: str,
) -> Task:
    return Task(
        id=row_id(row, where=place),
        environment=config.type,
        messages=_messages(config.type, row, place),
        tools=_offered(config.type, row.get("tools"), tools, place),
        data={"own": own, "row": row},
        problem=None if row.get("problem") is None else str(row["problem"]),
    )


def _offered(
    path: str, given: Any, known: Mapping[str, dict[str, Any]], place: str
) -> list[dict[str, Any]]:
    """A task's tools: names, or documents of its own; null: all that are known. Raises: UserError."""
    if given is None:
        return list(known.values())
    if not isinstance(given, list):
        raise UserError(
            f"environment {path!r}, {place}: tools is {given!r:.60}; give a list of names, or of "
            "{name, description, parameters}"
        )
    own = {d["name"]: d for d in (_document(path, t, place) for t in given if isinstance(t, dict))}
    names = [t if isinstance(t, str) else _document(path, t, place)["name"] for t in given]
    for name in names:
        if name not in own and name not in known:
            raise unknown_name(f"tool of {path} ({place})", name, known)
    return [own.get(name) or known[name] for name in names]


def _document(path: str, given: Any, place: str) -> dict[str, Any]:
    """A tool's document, bare; OpenAI's form has it under `function`. Raises: UserError."""
    document = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise UserError(
            f"environment {path!r}, {place}: a tool is {given!r:.60}; give a name, or "
            "{name, description, parameters}"
        )
    return document


def _messages(path: str, row: Mapping[str, Any], place: str) -> list[Message]:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    good = isinstance(prompt, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) for m in prompt
    )
    if not good or not prompt or prompt[-1]["role"] == "assistant":
        raise UserError(
            f"environment {path!r}, {place}: prompt is {prompt!r:.60}; a task has a `prompt`, text or "
            "messages that end with the user's"
        )
    return list(prompt)


def _digest(path: str) -> str:
    """Of the class's file: a benchmark's kept samples are of another episode once it changes."""
    return Contents(Path("/nonexistent")).of(Reads("function"), path)[1]


@cache
def _describe(path: str, stamp: object) -> ClassDescription:
    found = ask_description("environment", WORKER, path)
    options = found["options"]
    return ClassDescription(
        tools=found["tools"],
        options=None if options is None else tuple(options),
        has_tasks=found["has_tasks"],
        has_call=found["has_call"],
        has_task_of=found["has_task_of"],
    )
