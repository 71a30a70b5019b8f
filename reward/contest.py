"""Does the reply's program pass a contest problem's tests? LiveCodeBench's rules, in our sandbox.

The rules, of its runner `testing_util`: a program that reads standard input is run anew for each
test, its output compared line by line, without outer spaces, as text or as decimal numbers; a
function (LeetCode's `Solution().name`) is called with JSON arguments and its value compared with
the expected one. Each test has its own time limit, the first failure ends it, and the program
finds the usual names imported. Differences: expected values never enter the sandbox, and a program
is run as one, where the runner wraps it in a function and replaces `open` and `sys.stdin`.
"""

import base64
import io
import json
import math
import pickle
import socket
import time
import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from reward.code import last_program, shown
from reward.isolation.messages import (
    MAX_MESSAGE_BYTES,
    Channel,
    ChannelBroken,
    ChannelTimeout,
    RemoteError,
    RemoteFunction,
)
from reward.reply import CheckedReply
from reward.sandbox import Limits, Sandboxed, SandboxError, run_program
from reward.verdict import Verdict, decided, failed, wrong_format
from workbench.errors import UserError, reason_of

# What its runner imports before a program; later names win, as there.
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
_IMPORTS = "".join(
    [
        *(f"from {name} import *\n" for name in _STARRED),
        *(f"import {name}\n" for name in _STARRED if name not in ("builtins", "typing")),
        "sys.setrecursionlimit(50000)\n",
    ]
)
_CALLED = "_contest_entry"
_KEYS = ("tests", "packed", "function")
# Its runner gives the whole of a problem this much beside the tests' own limits.
_SPARE_S = 5.0
_LONGEST_INPUT = MAX_MESSAGE_BYTES // 4  # its encoded form is longer
_RTOL, _ATOL = 1e-5, 1e-8  # numpy.allclose's, which its runner uses for numbers


def check_contest(
    reply: CheckedReply,
    reference: Any,
    *,
    timeout_s: float = 6.0,
    memory_mb: int = 4096,
    allow_weak: bool = False,
) -> Verdict:
    """1.0 where the last ```python block of the reply passes every test.

    reference: {"tests": [{"input", "output"}, ...], "packed"?: more tests as the hub has them (base64
    of zlib of a pickled JSON text), "function"?: name of the function to call; else the program reads
    standard input}. Input of a function: one JSON value a line; output: a JSON value.
    timeout_s: wall time of each test; one over it is wrong, as the benchmark has it. parts: passed,
    total, outcome ("passed", "wrong", "time_limit", "raised"), error.
    """
    tests = read_tests(reference)
    code = last_program(reply)
    if code is None:
        return wrong_format("no program found in the reply")
    run = _call_function if reference.get("function") else _run_programs
    limits = Limits(timeout_s=timeout_s, memory_bytes=memory_mb * 2**20, output_bytes=2**24)
    try:
        parts = run(code, tests, reference.get("function"), limits, allow_weak)
    except SandboxError as error:
        return failed(str(error))
    return decided(float(parts["outcome"] == "passed"), **parts)


def read_tests(reference: Any) -> list[dict[str, str]]:
    """Every test of a problem as {"input", "output"}. Raises: UserError."""
    if not isinstance(reference, Mapping) or not set(reference) <= set(_KEYS):
        raise UserError(f"the reference of a contest check is a mapping of {', '.join(_KEYS)}")
    tests = [*reference.get("tests", ()), *_unpacked(reference.get("packed"))]
    if not tests or not all({"input", "output"} <= set(test) for test in tests):
        raise UserError("a contest check needs tests, each with input and output")
    return [{"input": str(t["input"]), "output": str(t["output"])} for t in tests]


class _TextOnly(pickle.Unpickler):
    """Data of others: a pickle may build text, and nothing that has a class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the tests' pickle asks for {module}.{name}")


def _unpacked(packed: str | None) -> Sequence[dict[str, str]]:
    if not packed:
        return ()
    try:
        if packed.lstrip().startswith("["):
            found = json.loads(packed)
        else:
            raw = zlib.decompress(base64.b64decode(packed))
            found = json.loads(_TextOnly(io.BytesIO(raw)).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            f"a contest problem's packed tests cannot be read ({reason_of(error)})"
        ) from None
    return list(found)


def _result(outcome: str, passed: int, total: int, error: str = "") -> dict[str, Any]:
    return {"outcome": outcome, "passed": passed, "total": total, "error": error[:1000]}


def _run_programs(
    code: str, tests: Sequence[Mapping[str, str]], function: None, limits: Limits, allow_weak: bool
) -> dict[str, Any]:
    program = f"{_IMPORTS}\n{code}"
    for number, test in enumerate(tests):
        run = run_program(
            program, test["input"], limits=limits, allow_weak=allow_weak, packages=("numpy",)
        )
        if run.outcome == "time_limit":
            return _result("time_limit", number, len(tests), f"test {number + 1}")
        # Its runner lets sys.exit pass, whatever the code.
        killed = run.outcome != "exited" or (run.exit_code or 0) < 0
        if killed or (run.exit_code and "Traceback" in run.stderr):
            why = run.stderr.strip() or f"{run.outcome} {run.exit_code}"
            return _result("raised", number, len(tests), f"test {number + 1}: {why[-900:]}")
        if not same_output(test["output"], run.stdout):
            why = f"test {number + 1}: {test['output'][:200]!r} expected, got {run.stdout[:200]!r}"
            return _result("wrong", number, len(tests), why)
    return _result("passed", len(tests), len(tests))


def same_output(expected: str, got: str) -> bool:
    """Line by line, without outer spaces: the same text, or the same decimal numbers."""
    wanted, found = (
        [line.strip() for line in text.strip().split("\n")] for text in (expected, got)
    )
    return len(wanted) == len(found) and all(
        a == b or _same_numbers(a, b) for a, b in zip(wanted, found, strict=True)
    )


def _same_numbers(expected: str, got: str) -> bool:
    try:
        wanted, found = ([Decimal(word) for word in line.split()] for line in (expected, got))
        return wanted == found
    except InvalidOperation:
        return False


def _call_function(
    code: str, tests: Sequence[Mapping[str, str]], function: str, limits: Limits, allow_weak: bool
) -> dict[str, Any]:
    if not function.isidentifier():
        raise UserError(f"a contest check's function is a name, got {function!r}")
    # One instance for all tests, as there.
    found = f"Solution().{function}" if "class Solution" in code else function
    program = f"{_IMPORTS}\n{code}\n\n{_CALLED} = {found}\n"
    whole_s = (limits.timeout_s + 1) * len(tests) + _SPARE_S
    whole = Limits(timeout_s=whole_s, memory_bytes=limits.memory_bytes)
    mine, theirs = socket.socketpair()
    with (
        mine,
        theirs,
        Sandboxed(
            "function",
            {"code": program, "function": _CALLED},
            whole,
            control=theirs,
            allow_weak=allow_weak,
            packages=("numpy",),
        ) as box,
    ):
        theirs.close()
        channel = Channel(mine, time.monotonic() + limits.timeout_s)
        return _calls(channel, box, tests, limits.timeout_s)


def _calls(
    channel: Channel, box: Sandboxed, tests: Sequence[Mapping[str, str]], timeout_s: float
) -> dict[str, Any]:
    remote, number = RemoteFunction(channel), 0
    try:
        remote.wait_loaded()
        for number, test in enumerate(tests):
            channel.deadline = min(time.monotonic() + timeout_s, box.deadline)
            if len(test["input"]) > _LONGEST_INPUT:
                raise SandboxError(f"test {number + 1} has an input too long to be sent")
            args = [json.loads(line) for line in test["input"].split("\n")]
            got = remote(*args)
            expected = json.loads(test["output"])
            if not same_value(expected, got):
                why = f"test {number + 1}: {test['output'][:200]} expected, got {shown(got):.200}"
                return _result("wrong", number, len(tests), why)
    except ChannelTimeout:
        return _result("time_limit", number, len(tests), f"test {number + 1}")
    except (RemoteError, ChannelBroken) as error:
        return _result("raised", number, len(tests), f"test {number + 1}: {error}")
    return _result("passed", len(tests), len(tests))


def same_value(expected: Any, got: Any) -> bool:
    """Equal as Python has it (a tuple counts as a list), the same JSON, or near as numbers."""
    if isinstance(got, tuple):
        got = list(got)
    try:
        if got == expected or json.dumps(got) == json.dumps(expected):
            return True
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return math.isclose(float(got), float(expected), rel_tol=0.0, abs_tol=_slack(expected))
    except (TypeError, ValueError, OverflowError):
        return False


def _slack(expected: Any) -> float:
    return _ATOL + _RTOL * abs(float(expected))
