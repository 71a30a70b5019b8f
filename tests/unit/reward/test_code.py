"""Code checks: three forms of reference, extraction, comparison, limits."""

from typing import Any

import pytest

from reward import check
from reward.code import equal
from reward.isolation.messages import decode, encode
from workbench.errors import UserError

DOUBLE = {"function": "double", "tests": [[[2], 4], [[-1], -2], [["ab"], "abab"]]}
RIGHT = "def double(x):\n    return x * 2"
HALF_RIGHT = "def double(x):\n    return abs(x) * 2 if x != 'ab' else 'abab'"


def _fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nDone."


def test_function_tests() -> None:
    assert check("code", _fenced(RIGHT), DOUBLE).value == 1.0
    verdict = check("code", _fenced(HALF_RIGHT), DOUBLE)
    assert verdict.value == 0.0
    assert (verdict.parts["passed"], verdict.parts["total"]) == (2, 3)
    assert check("code", _fenced(HALF_RIGHT), DOUBLE, mode="fraction").value == 2 / 3


@pytest.mark.parametrize(
    "text",
    [
        "<think>```python\ndef double(x): return 0\n```</think>" + _fenced(RIGHT),
        RIGHT,
        _fenced(RIGHT) + "\nUse it so:\n```python\nprint(double(3))\n```",
        "```\n" + RIGHT + "\n```",
        _fenced("double = lambda x: x * 2"),
        _fenced("import sys\nprint('noise', file=sys.stderr)\nprint('{}')\n" + RIGHT),
        _fenced(RIGHT + "\nif __name__ == '__main__':\n    input()"),
    ],
)
def test_the_program_is_found(text: str) -> None:
    assert check("code", text, DOUBLE).value == 1.0


@pytest.mark.parametrize("text", ["", "I would double it.", "```python\n" + RIGHT])
def test_no_program_is_wrong_format(text: str) -> None:
    assert check("code", text, DOUBLE).status == "wrong_format"


@pytest.mark.parametrize(
    "code",
    [
        "def double(x) return",
        "x = 1\n# no def double",
        "raise ValueError",
        "import torch\n" + RIGHT,
    ],
)
def test_programs_that_do_not_load_are_wrong(code: str) -> None:
    verdict = check("code", _fenced(code), DOUBLE)
    assert (verdict.value, verdict.status) == (0.0, "ok")
    assert verdict.parts["error"]


def test_a_value_too_large_to_write_out_is_wrong_and_no_broken_check() -> None:
    tests = {"function": "f", "tests": [[[1], 1]]}
    found = check("code", "```python\ndef f(x):\n    return [10**5000]\n```", tests)
    assert (found.value, found.status) == (0.0, "ok")
    assert found.parts["error"] == "[1] gave a list too large to show"
    contest = {"tests": [{"input": "1", "output": "1"}], "function": "f"}
    found = check("contest", "```python\ndef f(x):\n    return 10**5000\n```", contest)
    assert (found.value, found.parts["outcome"]) == (0.0, "wrong")


def test_program_output() -> None:
    reference = {"stdin": "3\n4\n", "expected_output": "7\n"}
    assert check("code", _fenced("print(int(input()) + int(input()))"), reference).value == 1.0
    assert check("code", _fenced("print(7, end='  \\n\\n')"), reference).value == 1.0
    assert check("code", _fenced("print(8)"), reference).value == 0.0
    assert check("code", _fenced("print(7); raise SystemExit(1)"), reference).value == 0.0
    assert check("code", _fenced("import os; print(7); os._exit(0)"), reference).value == 0.0


def test_test_code_runs_apart_from_the_program() -> None:
    reference = {
        "function": "double",
        "program_prefix": "K = 2\ndef double(x):\n    '''Twice x.'''\n",
        "program_suffix": (
            "def check(candidate):\n    assert candidate(4) == K * 4\n"
            "    try:\n        candidate(None)\n        assert False, 'no error'\n"
            "    except TypeError:\n        pass\n"
        ),
    }
    assert check("code", "    return x * K\n", reference).value == 1.0
    assert check("code", _fenced("def double(x):\n    return x * K"), reference).value == 1.0
    assert check("code", _fenced("def double(x):\n    return 8"), reference).value == 0.0
    plain = {**reference, "program_suffix": "assert double(1) == 2"}
    assert check("code", "    return x * K\n", plain).value == 1.0
    silent = {**reference, "program_suffix": "pass"}
    assert check("code", "    return x * K\n", silent).value == 0.0


def test_a_time_limit_is_a_status_or_by_choice_a_failure() -> None:
    text = _fenced("def double(x):\n    while True:\n        pass")
    verdict = check("code", text, DOUBLE, timeout_s=0.5)
    assert (verdict.value, verdict.status) == (None, "timeout")
    chosen = check("code", text, DOUBLE, timeout_s=0.5, time_limit_is_failure=True)
    assert (chosen.value, chosen.parts["outcome"]) == (0.0, "time_limit")


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ([1, 2], (1, 2), True),
        (1, 1.0, True),
        (1, True, True),
        (True, 1, True),
        (True, 2, False),
        ({"a": [1]}, {"a": (1,)}, True),
        ({"a": 1}, {"a": 2}, False),
        ([1, 2, 3], [1, 2], False),
        ({1, 2}, {2, 1}, True),
        ([1, 2], {1, 2}, False),
        (float("nan"), float("nan"), True),
        (0.3, 0.1 + 0.2, False),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
    ],
)
def test_equality(expected: Any, got: Any, same: bool) -> None:
    assert equal(expected, got) is same


def test_tolerance() -> None:
    assert equal([0.3], [0.1 + 0.2], 1e-9)
    assert not equal(0.3, 0.31, 1e-3)
    assert not equal(10**400, 1.5, 1e-3)


def test_values_survive_the_wire() -> None:
    value = {"a": [1, 2**80, -(2**70), 1.5, None, True], (1, "x"): {3}, "b": b"\x00", "c": 1 + 2j}
    assert decode(encode(value)) == value
    broken: list[Any] = [
        {"t": 3},
        {"q": []},
        {"a": 1, "b": 2},
        {"d": [[1]]},
        {"s": [[]]},
        {"i": "z"},
    ]
    for bad in broken:
        with pytest.raises(ValueError, match=r"."):
            decode(bad)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("def f", "is a mapping"),
        ({"function": "f"}, "needs function and tests"),
        ({"function": "f", "tests": [[1]]}, r"\[args, expected\]"),
        ({"function": "f", "test": []}, "did you mean 'tests'"),
    ],
)
def test_mistakes_of_the_caller_are_named(reference: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check("code", _fenced(RIGHT), reference)
