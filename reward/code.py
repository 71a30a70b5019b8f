"""Does the reply's program do what the tests ask? It runs in the sandbox; we compare outside.

Expected values never enter the sandbox that holds the reply's code: values come out, as built-in
types, fractions and decimals, and are compared here (or, for HumanEval-like test code, in a second sandbox that
calls the first). So exiting early, printing "passed" or overriding `__eq__` earns nothing: a
program that reports the right values has computed them.
"""

import importlib.util
import math
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from reward.fences import has_fence, python_blocks, unix_lines, whole_program
from reward.isolation.messages import (
    Channel,
    ChannelBroken,
    ChannelTimeout,
    RemoteError,
    RemoteFunction,
)
from reward.reply import CheckedReply
from reward.sandbox import START_LIMIT_S, Limits, Sandboxed, SandboxError, run_program
from reward.verdict import Verdict, decided, failed, timed_out, wrong_format
from workbench.errors import UserError, unknown_name

MODES = ("all", "fraction")
_NUMPY = "numpy"
_REAL = (int, float, Fraction, Decimal)
_CODE_START = re.compile(
    r"\s*(?:import |from \w+ import|def |class |for |while |if |try:|with |print\(|#|@|\w+ *=[^=])"
)
_KEYS = (
    "function", "tests", "stdin", "expected_output", "program_suffix", "program_prefix", "packages",
)  # fmt: skip


def check_code(
    reply: CheckedReply,
    reference: Any,
    *,
    mode: str = "all",
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    tolerance: float = 0.0,
    time_limit_is_failure: bool = False,
    allow_weak: bool = False,
) -> Verdict:
    """1.0 where the reply's Python passes the tests.

    The code is the reply's last ```python block (the last that defines the function, where there
    is one; an untagged block where no block is tagged), or a bare program. Values are compared as
    `==` does, but a list equals a tuple and NaN equals NaN. reference is one of:
    - {"function", "tests": [[args, expected], ...]}: lists and tuples are equal, so tests may
      come from JSON; `tolerance` is absolute and relative for floats;
    - {"stdin", "expected_output"}: output is compared without trailing spaces of lines and the
      text; the program must exit 0;
    - {"program_suffix", "function", "program_prefix"?, "packages"?}: HumanEval-like; the suffix is
      test code that calls the function, or defines `check(candidate)`; the prefix (the prompt's
      code) is put before the program, and completed by a reply that is not a whole function.
      Tests that break before they call the function are a failed check.
    Each may have "packages": installed ones that tests and program may import; NumPy by default.
    mode "fraction" (first form only): the share of tests passed.
    timeout_s: wall time of the whole program; over it the verdict is "timeout" (no value), or
    0.0 with time_limit_is_failure. allow_weak: run even where there is no safe sandbox.
    """
    if mode not in MODES:
        raise unknown_name("mode of code check", mode, MODES)
    form = _form(reference)
    code = _program(reply, reference)
    if code is None:
        return wrong_format("no program found in the reply")
    limits = Limits(timeout_s=timeout_s, memory_bytes=memory_mb * 2**20)
    try:
        if form == "stdin":
            parts = _check_output(code, reference, limits, allow_weak)
        elif form == "tests":
            parts = _check_values(code, reference, limits, allow_weak, tolerance)
        else:
            parts = _check_test_code(code, reference, limits, allow_weak)
    except SandboxError as error:
        return failed(str(error))
    if parts["outcome"] == "time_limit" and not time_limit_is_failure:
        return timed_out(f"the program ran longer than {timeout_s:g} s", **parts)
    share = parts["passed"] / parts["total"]
    return decided(share if mode == "fraction" else float(share == 1.0), **parts)


def _form(reference: Any) -> str:
    if not isinstance(reference, Mapping):
        raise UserError(f"the reference of a code check is a mapping, got {reference!r}"[:300])
    for key in reference:
        if key not in _KEYS:
            raise unknown_name("key of a code check's reference", str(key), _KEYS)
    if "program_suffix" in reference and "function" in reference:
        return "suffix"
    if "expected_output" in reference:
        return "stdin"
    tests = reference.get("tests")
    if "function" in reference and isinstance(tests, Sequence) and tests:
        if all(isinstance(t, Sequence) and len(t) == 2 for t in tests):
            return "tests"
        raise UserError("each test of a code check is [args, expected]")
    raise UserError(
        "the reference of a code check needs function and tests, stdin and expected_output, or "
        f"program_suffix and function; got {', '.join(map(str, reference)) or 'nothing'}"
    )


def last_program(reply: CheckedReply) -> str | None:
    """The reply's last ```python block, or the bare program that it is; None where it is neither."""
    return _program(reply, {})


def _program(reply: CheckedReply, reference: Mapping[str, Any]) -> str | None:
    function = reference.get("function")
    prefix = str(reference.get("program_prefix") or "")
    answer = unix_lines(reply.answer)
    blocks = python_blocks(answer)
    defines = re.compile(
        rf"\b(?:def\s+{re.escape(str(function))}\b|{re.escape(str(function))}\s*=)"
    )
    if blocks:
        best = [b for b in blocks if b.tagged] or blocks
        whole = [b for b in best if function is None or defines.search(b.code)]
        whole = whole or [b for b in blocks if function is None or defines.search(b.code)]
        code = (whole or best)[-1].code
    elif has_fence(answer) or not answer.strip():
        return None
    elif _is_bare_program(answer, function, defines) or (function and prefix):
        code = answer
    else:
        return None
    # A reply that completes the prefix keeps its indentation.
    if prefix and not defines.search(code):
        return prefix + code
    return f"{prefix}\n{whole_program(code)}" if prefix else whole_program(code)


def _is_bare_program(answer: str, function: Any, defines: re.Pattern[str]) -> bool:
    return bool(_CODE_START.match(answer) if function is None else defines.search(answer))


def _packages(reference: Mapping[str, Any], *texts: str) -> tuple[str, ...]:
    """Those that the reference names; else NumPy, where it is asked for and installed."""
    if reference.get("packages") is not None:
        return tuple(reference["packages"])
    wanted = any(_NUMPY in text for text in texts)
    return (_NUMPY,) if wanted and importlib.util.find_spec(_NUMPY) else ()


def _check_output(
    code: str, reference: Mapping[str, Any], limits: Limits, allow_weak: bool
) -> dict[str, Any]:
    stdin = str(reference.get("stdin") or "")
    packages = _packages(reference, code)
    run = run_program(code, stdin, limits=limits, allow_weak=allow_weak, packages=packages)
    right = _lines(run.stdout) == _lines(str(reference["expected_output"]))
    passed = right and run.outcome == "exited" and run.exit_code == 0
    return {
        "outcome": run.outcome,
        "passed": int(passed),
        "total": 1,
        "exit_code": run.exit_code,
        "stdout": run.stdout[-1000:],
        "stderr": run.stderr[-1000:],
        "wall_s": run.wall_s,
    }


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _check_values(
    code: str, reference: Mapping[str, Any], limits: Limits, allow_weak: bool, tolerance: float
) -> dict[str, Any]:
    tests = reference["tests"]
    payload = {"code": code, "function": str(reference["function"])}
    mine, theirs = socket.socketpair()
    passed, error, outcome = 0, "", "exited"
    with (
        mine,
        theirs,
        Sandboxed(
            "function",
            payload,
            limits,
            control=theirs,
            allow_weak=allow_weak,
            packages=_packages(reference, code),
        ) as box,
    ):
        theirs.close()
        remote = RemoteFunction(Channel(mine, box.deadline))
        try:
            remote.wait_loaded()
            for args, expected in tests:
                problem = _one_test(remote, args, expected, tolerance)
                passed += not problem
                error = error or problem
        except RemoteError as raised:
            error = str(raised)
        except ChannelTimeout:
            outcome = "time_limit"
        except ChannelBroken as broken:
            outcome, error = box.why_gone(), str(broken)
    found = {"outcome": outcome, "passed": passed, "total": len(tests), "error": error}
    return found | {"wall_s": box.wall_s}


def _one_test(remote: RemoteFunction, args: Any, expected: Any, tolerance: float) -> str:
    """ "" where the test passes, else why not."""
    try:
        got = remote(*(args if isinstance(args, (list, tuple)) else [args]))
    except RemoteError as error:
        return str(error)
    return "" if equal(expected, got, tolerance) else f"{args!r} gave {shown(got)}"[:300]


def shown(value: Any) -> str:
    """The value as Python writes it. It writes no integer of over 4,300 digits: then its type."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


def _check_test_code(
    code: str, reference: Mapping[str, Any], limits: Limits, allow_weak: bool
) -> dict[str, Any]:
    function = str(reference["function"])
    tests = {
        "prefix": str(reference.get("program_prefix") or ""),
        "suffix": str(reference["program_suffix"]),
        "function": function,
    }
    with ExitStack() as stack:
        mine, tester_end = (stack.enter_context(s) for s in socket.socketpair())
        caller, called = (stack.enter_context(s) for s in socket.socketpair())
        program = {"code": code, "function": function}
        packages = _packages(reference, code, tests["suffix"])
        # The tester first: it waits for the program, whose time is its own from its start on.
        longer = replace(
            limits,
            timeout_s=limits.timeout_s + START_LIMIT_S,
            cpu_s=limits.cpu_s or limits.timeout_s,
        )
        tester = Sandboxed(
            "tests",
            tests,
            longer,
            control=tester_end,
            solution=caller,
            allow_weak=allow_weak,
            packages=packages,
        )
        stack.enter_context(tester)
        tester_end.close()
        caller.close()
        box = stack.enter_context(
            Sandboxed(
                "function",
                program,
                limits,
                control=called,
                allow_weak=allow_weak,
                packages=packages,
            )
        )
        called.close()
        report = _test_report(Channel(mine, box.deadline), box)
    return report | {"wall_s": box.wall_s}


def _test_report(channel: Channel, box: Sandboxed) -> dict[str, Any]:
    try:
        report = channel.receive()
    except ChannelTimeout:
        return {"outcome": "time_limit", "passed": 0, "total": 1, "error": "no end of the tests"}
    except ChannelBroken as broken:
        # Test code is the task's, not the reply's: its death says nothing about the reply.
        raise SandboxError(f"the test process ended without a result: {broken}") from broken
    if report.get("broken"):
        raise SandboxError(f"the tests broke before they called the function: {report['error']}")
    passed = report.get("passed") is True
    outcome = "exited" if passed or "ChannelBroken" not in str(report.get("error")) else ""
    return {
        "outcome": outcome or box.why_gone(),
        "passed": int(passed),
        "total": 1,
        "error": str(report.get("error", "")),
    }


def equal(expected: Any, got: Any, tolerance: float = 0.0) -> bool:
    """Equality as `==` has it, but a list equals a tuple, and NaN equals NaN."""
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        pairs = zip(expected, got, strict=False)
        return len(expected) == len(got) and all(equal(e, g, tolerance) for e, g in pairs)
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(
            equal(expected[key], got[key], tolerance) for key in expected
        )
    if isinstance(expected, _REAL) and isinstance(got, _REAL):
        if expected != expected:
            return bool(got != got)
        return bool(expected == got) or _near(expected, got, tolerance)
    return bool(expected == got)


def _near(expected: Any, got: Any, tolerance: float) -> bool:
    # An integer too large for a float is never "near".
    try:
        return tolerance > 0 and math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:
        return False
