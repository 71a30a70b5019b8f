"""A user's own reward function, named by its file or module, run where it can be stopped.

    mine.py:score           a file; relative paths start where the command was given
    package.module:score    a module that Python finds

The function takes one reply, or lists of them::

    def score(prompt, reply, reference, **options): ...      # -> float, or a Verdict
    def score(prompts, replies, references, **options): ...  # -> a list of them, in order
    def score(completions, ground_truth, **kwargs): ...      # as TRL calls its reward functions

It may be `async`. `prompt` is the last user message as text, with `.messages`. `reply` is the whole
reply as text, with `.answer`, `.thinking` and `.tool_calls`. It runs in a worker process with limits of
time and memory. A crash, a hang, a NaN or another type is a status and never a score.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from reward.line import Before, CallResult
from reward.reply import CheckedReply
from reward.verdict import Verdict, failed, timed_out
from reward.workers import WorkerPool
from workbench.content import Reads
from workbench.custom_code import target_of
from workbench.errors import UserError, one_line, unknown_name
from workbench.local_imports import imported_files
from workbench.provenance import digest
from workbench.schema import Section

_WORKER = "reward.plugin_worker"
LOAD_LIMIT_S = 60.0


class FunctionConfig(Section):
    """A reward function of the user's own."""

    path: Annotated[str, Reads("function")]
    """`mine.py:score` or `package.module:score`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function, beside prompt, reply and reference."""
    timeout_s: float = Field(10.0, gt=0)
    """Most seconds of CPU for one call; four times that by the clock. A call that overruns is stopped, and
    its replies have no reward. Importing the file is not counted."""
    memory_gb: float = Field(3.0, gt=0)
    """Address space of a worker process, in GB. A function that loads a model needs more."""
    workers: int = Field(2, ge=1)
    """Calls at the same time, each in a process of its own. A function of lists is called once a step."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class ReplyToScore:
    """One reply to score. reference: of the prompt's check, or None."""

    reply: CheckedReply
    reference: Any = None

    def as_json(self) -> dict[str, Any]:
        """What the worker gets."""
        return {
            "messages": list(self.reply.prompt),
            "text": self.reply.text,
            "answer": self.reply.answer,
            "tool_calls": self.reply.tool_calls,
            "reference": self.reference,
        }


@dataclass(frozen=True)
class FunctionDescription:
    """What a worker found out about a function. form: one, many or trl."""

    form: str
    is_async: bool
    options: tuple[str, ...] | None
    """Names of its own keyword arguments; None: it takes any."""

    @property
    def takes_lists(self) -> bool:
        """Whether one call scores many replies; async functions of one reply run side by side."""
        return self.form != "one" or self.is_async


def is_plugin(kind: str) -> bool:
    """Whether the name of a check is a function of the user's own."""
    return ":" in kind


def describe(path: str) -> FunctionDescription:
    """Load the function in a worker. Raises: UserError where it does not import or cannot be called."""
    return _describe(path, stamp_of(path))


def check_config(config: FunctionConfig) -> None:
    """Raises: UserError for a function that does not load, or an option that it does not take."""
    _check_options(config.path, describe(config.path), config.options)


def score_items(config: FunctionConfig, items: Sequence[ReplyToScore]) -> list[Verdict]:
    """A verdict of each item, in order.

    A function of lists is called once, so a hang of one reply leaves all of them without a reward.
    """
    if not items:
        return []
    described = describe(config.path)
    pool = _pool(config.path.rpartition(":")[0], config.workers, config.memory_gb)

    target = target_of(config.path)
    # Importing the user's file is not the time of a call: each worker does it once, before its first one.
    before = Before(f"{_WORKER}:prepare", [target, stamp_of(config.path)[1]], LOAD_LIMIT_S)

    def call(part: Sequence[ReplyToScore]) -> list[Verdict]:
        args = [target, [item.as_json() for item in part], config.options]
        done = pool.call(f"{_WORKER}:score", args, timeout_s=config.timeout_s, before=before)
        return _verdicts(done, len(part))

    if described.takes_lists:
        return call(items)
    with ThreadPoolExecutor(config.workers, thread_name_prefix="reward") as threads:
        return [verdict for (verdict,) in threads.map(call, [[item] for item in items])]


def produced(path: str, *, timeout_s: float = LOAD_LIMIT_S) -> Any:
    """What the function at `path` makes when it is called with nothing: plain values, made in a worker
    with limits. A function among the values is named by its path, so that it can be a check.

    Raises: UserError where it does not load, fails, hangs or gives what is not JSON.
    """
    pool = WorkerPool(1)
    try:
        done = pool.call(f"{_WORKER}:produce", [target_of(path), path], timeout_s=timeout_s)
    finally:
        pool.close()
    if done.status != "ok":
        raise UserError(f"function {path!r}: {done.reason}")
    return done.value


def source_digest(path: str) -> str:
    """Digest of the function's file and of what it imports beside it; of a module: its name alone."""
    target = target_of(path)
    if not target[0].endswith(".py"):
        return path
    return _source_digest(target[0], Path(target[0]).stat().st_mtime_ns)


@cache
def _source_digest(file: str, stamp: int) -> str:
    files = sorted({Path(file), *imported_files(Path(file))})
    return digest([path.read_text(encoding="utf-8", errors="replace") for path in files])


def check_plugin(path: str, reply: CheckedReply, reference: Any, **options: Any) -> Verdict:
    """One reply scored by the function at `path`: what a check of this kind is."""
    config = FunctionConfig(path=path, options=options)
    (verdict,) = score_items(config, [ReplyToScore(reply, reference)])
    return verdict


def _check_options(path: str, described: FunctionDescription, options: Mapping[str, Any]) -> None:
    for name in options:
        if described.options is not None and name not in described.options:
            raise unknown_name(f"option of {path}", name, described.options)
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise UserError(f"options of {path}: {one_line(error)}; use plain values") from None


def stamp_of(path: str) -> tuple[str, int]:
    """Changes when the file does, so that a function is described anew."""
    target = target_of(path)
    file = Path(target[0])
    return target[2], file.stat().st_mtime_ns if file.suffix == ".py" else 0


@cache
def _describe(path: str, stamp: tuple[str, int]) -> FunctionDescription:
    found = ask_description("function", _WORKER, path)
    options = found["options"]
    return FunctionDescription(
        form=found["form"],
        is_async=found["is_async"],
        options=None if options is None else tuple(options),
    )


def ask_description(what: str, worker: str, path: str) -> dict[str, Any]:
    """What `describe` of a worker's module says of a user's function or class. Raises: UserError."""
    # A process of its own: what loading breaks or leaves behind must not meet the next one.
    pool = WorkerPool(1)
    try:
        done = pool.call(f"{worker}:describe", [target_of(path)], timeout_s=LOAD_LIMIT_S)
    finally:
        pool.close()
    if done.status != "ok":
        raise UserError(f"{what} {path!r} cannot be loaded: {done.reason}")
    if "problem" in done.value:
        raise UserError(f"{what} {path!r}: {done.value['problem']}")
    found: dict[str, Any] = done.value
    return found


@cache
def _pool(source: str, workers: int, memory_gb: float) -> WorkerPool:
    """The workers of one file or module: what it does to its process is no other one's."""
    return WorkerPool(workers, int(memory_gb * 2**30))


def _verdicts(done: CallResult, wanted: int) -> list[Verdict]:
    if done.status == "timeout":
        return [timed_out(done.reason)] * wanted
    if done.status == "error":
        return [failed(done.reason)] * wanted
    return [
        failed(one["error"])
        if "error" in one
        else Verdict(one["value"], one["status"], one["parts"])
        for one in done.value
    ]
