"""HumanEval+ and MBPP+ on rows in EvalPlus' form, whose tests compare with numpy."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals.registry import benchmark
from evals.sources import Loading
from evals.tasks.code import mbpp_question
from reward import Verdict, check
from workbench.conversation import Conversation

COMPARE = """import numpy as np


def near(out, exp):
    if isinstance(exp, float):
        assert np.allclose(out, exp, rtol=1e-07, atol=1e-06)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"


cases = [([[1, 2, 3]], 3), ([[4.5, 1.0]], 4.5), ([[0.1, 0.2]], 0.2)]
"""
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def largest(xs):\n    """The largest."""\n',
    "entry_point": "largest",
    "test": COMPARE + "\n\ndef check(candidate):\n    for inp, exp in cases:\n"
    "        near(candidate(*inp), exp)\n",
}
MBPP = {
    "task_id": 7,
    "prompt": "Write a function to find the largest.",
    # The tested function is not the last one.
    "code": "def largest(xs):\n    return best(xs)\n\n\ndef best(xs):\n    return max(xs)\n",
    "test_imports": ["import math"],
    "test_list": ["assert largest([1, 2]) == 2"],
    "test": COMPARE + "\nfor inp, exp in cases:\n    near(largest(*inp), exp)\n",
}


def _verdict(asked: Conversation, code: str) -> Verdict:
    spec = asked.check
    assert spec is not None
    return check(spec.kind, f"```python\n{code}\n```", spec.reference, **spec.options)


@pytest.mark.parametrize(("name", "row"), [("humaneval-plus", HUMANEVAL), ("mbpp-plus", MBPP)])
def test_tests_that_need_numpy_tell_right_from_wrong(
    name: str, row: dict[str, Any], tmp_path: Path
) -> None:
    """The sandbox had no numpy, so that every program of both benchmarks was scored 0."""
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (asked,) = benchmark(name).load(Loading(tmp_path))
    assert _verdict(asked, "def largest(xs):\n    return max(xs)").value == 1.0
    assert _verdict(asked, "def largest(xs):\n    return sum(xs[:1]) + 1e-9").value == 0.0
    with_numpy = "import numpy as np\n\ndef largest(xs):\n    return np.array(xs).max().item()"
    assert _verdict(asked, with_numpy).value == 1.0
    assert _verdict(asked, "def smallest(xs):\n    return min(xs)").value == 0.0


def test_tests_that_cannot_run_are_a_failed_check() -> None:
    """Whatever the program is: its score would be the test code's own."""
    broken = {**MBPP, "test": "import no_such_package\n" + str(MBPP["test"])}
    verdict = _verdict(mbpp_question(broken), "def largest(xs):\n    return max(xs)")
    assert (verdict.value, verdict.status) == (None, "error")
    assert "no_such_package" in verdict.parts["reason"]
