"""Contest problems: the package's own problems and runner as the oracle, and what the runner cannot see."""

import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from reward import check
from reward.contest import read_tests, same_output, same_value
from workbench.errors import UserError

GYM = Path(sys.prefix) / "evals-data" / "resources_servers" / "code_gen"
# Solutions of two of the five problems that nemo-gym ships, by a part of their text.
DIAGONAL = """
for _ in range(int(input())):
    n, m, k = map(int, input().split())
    if max(n, m) > k:
        print(-1)
        continue
    if (n + m) % 2:
        k -= 1
    elif (max(n, m) - k) % 2:
        k -= 2
    print(k)
"""
BEAUTIFUL = """
def main():
    for _ in range(int(input())):
        n = int(input())
        place = [0] * (n + 1)
        for i, x in enumerate(map(int, input().split())):
            place[x] = i
        low = high = place[1]
        out = []
        for m in range(1, n + 1):
            low, high = min(low, place[m]), max(high, place[m])
            out.append("1" if high - low + 1 == m else "0")
        print("".join(out))

if __name__ == "__main__":
    main()
"""
BARRELS = """
import numpy as np
for _ in range(int(input())):
    n, k = map(int, input().split())
    a = np.sort(np.array(input().split(), dtype=np.int64))[::-1]
    print(int(a[: k + 1].sum()))
"""


def _problems() -> list[dict[str, Any]]:
    path = GYM / "data" / "example.jsonl"
    if not path.is_file():
        pytest.skip("nemo-gym is not installed (scripts/setup.sh evals)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _problem(words: str) -> dict[str, Any]:
    found = [p for p in _problems() if words in p["responses_create_params"]["input"][0]["content"]]
    return dict(found[0]["verifier_metadata"]["unit_tests"])


def _reference(problem: dict[str, Any], limit: int | None = None) -> dict[str, Any]:
    pairs = zip(problem["inputs"], problem["outputs"], strict=True)
    tests = [{"input": i, "output": o} for i, o in pairs][:limit]
    function = problem.get("fn_name")
    return {"tests": tests, **({"function": function} if function else {})}


def _official(problem: dict[str, Any], code: str, timeout: int = 6) -> list[Any]:
    """The package's runner on the problem, in a process of its own."""
    if not GYM.is_dir():
        pytest.skip("nemo-gym is not installed: scripts/setup.sh evals")
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "from lcb_integration.testing_util import run_test;"
        "job = json.load(sys.stdin); out = sys.stdout;"
        "found, _ = run_test(job['problem'], test=job['code'], timeout=job['timeout']);"
        "out.write(json.dumps([bool(x) if not isinstance(x, int) else x for x in found]));"
        "out.flush(); import os; os._exit(0)"
    )
    job = json.dumps({"problem": problem, "code": code, "timeout": timeout})
    done = subprocess.run(
        [sys.executable, "-c", script, str(GYM)],
        input=job, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout))


def _agrees(problem: dict[str, Any], code: str, **options: Any) -> dict[str, Any]:
    """Our verdict, once it is the runner's too."""
    theirs = _official(problem, code, int(options.get("timeout_s", 6)))
    passed = all(found is True for found in theirs)
    verdict = check("contest", f"```python\n{code}\n```", _reference(problem), **options)
    assert verdict.value == float(passed), (theirs, verdict)
    outcome = {-2: "wrong", -3: "time_limit", -4: "raised"}.get(theirs[-1], "wrong")
    assert verdict.parts["outcome"] == ("passed" if passed else outcome), (theirs, verdict)
    return verdict.parts


@pytest.mark.parametrize(
    ("words", "code"),
    [("Mikhail walks", DIAGONAL), ("beautiful", BEAUTIFUL), ("barrels", BARRELS)],
)
def test_shipped_problems_pass_and_a_wrong_program_fails(words: str, code: str) -> None:
    problem = _problem(words)
    problem = {k: v[:20] if isinstance(v, list) else v for k, v in problem.items()}
    parts = _agrees(problem, code)
    assert parts["passed"] == parts["total"] == len(problem["inputs"])
    assert _agrees(problem, code.replace("print(", "print('', 7 + 0, "))["outcome"] == "wrong"


def test_a_loop_an_exception_and_an_early_end_fail_as_there() -> None:
    problem = {"inputs": ["3\n"], "outputs": ["6\n"], "fn_name": None}
    assert _agrees(problem, "while True:\n    pass", timeout_s=1.0)["outcome"] == "time_limit"
    assert _agrees(problem, "raise ValueError(int(input()))")["outcome"] == "raised"
    assert _agrees(problem, "syntax error here")["outcome"] == "raised"
    assert _agrees(problem, "print(2 * int(input()))\nexit(3)")["outcome"] == "passed"
    assert _agrees(problem, "import sys\nsys.exit(0)")["outcome"] == "wrong"


LEETCODE = {
    "inputs": ["[2,7,11,15]\n9", "[3,2,4]\n6"],
    "outputs": ["[0,1]", "[1,2]"],
    "fn_name": "twoSum",
}
TWO_SUM = """
class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        seen = defaultdict(int)
        for i, x in enumerate(nums):
            if target - x in seen:
                return (seen[target - x], i)
            seen[x] = i
"""


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (TWO_SUM, "passed"),
        (TWO_SUM.replace("i)", "i + 1)"), "wrong"),
        (TWO_SUM.replace("seen[x] = i", "seen[y] = i"), "raised"),
        (TWO_SUM.replace("twoSum", "sumTwo"), "raised"),
        (TWO_SUM.replace("seen[x] = i", "\n            while 1: pass"), "time_limit"),
        ("def twoSum(nums, target):\n    return [0, 1] if target == 9 else [1, 2]", "passed"),
    ],
)
def test_functions_are_called_as_there(code: str, outcome: str) -> None:
    if outcome == "raised" and "sumTwo" in code:  # the runner returns nothing at all here
        verdict = check("contest", f"```python\n{code}\n```", _reference(LEETCODE))
        assert (verdict.value, verdict.parts["outcome"]) == (0.0, "raised")
        return
    _problems()
    assert _agrees(LEETCODE, code, timeout_s=2.0)["outcome"] == outcome


def test_numbers_near_each_other_and_json_of_other_types() -> None:
    assert same_value(0.33333, 0.333331) and not same_value(0.3333, 0.3334)
    assert same_value([1, 2], (1, 2)) and not same_value([[1], [2]], ([1], (2, 3)))
    assert same_value("a", "a") and not same_value("a", "b") and not same_value(1, None)
    assert same_output("1.0 2\nYES\n", " 1 2.00 \n YES") and not same_output("1\n2", "1 2")
    assert not same_output("yes", "YES") and not same_output("1\n", "1\n\n2")


class _Harmful:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


def test_packed_tests_are_read_and_can_do_no_harm(tmp_path: Path) -> None:
    tests = [{"input": "1", "output": "1", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()
    assert read_tests({"packed": packed}) == [{"input": "1", "output": "1"}]
    harmful = base64.b64encode(zlib.compress(pickle.dumps(_Harmful()))).decode()
    with contextlib.chdir(tmp_path), pytest.raises(UserError, match="mkdir"):
        read_tests({"packed": harmful})
    assert not (tmp_path / "harm").exists()
    with pytest.raises(UserError, match="cannot be read"):
        read_tests({"packed": "no base64!"})
    with pytest.raises(UserError, match="needs tests"):
        read_tests({"tests": []})


def test_a_reply_without_a_program_has_the_wrong_format() -> None:
    assert check("contest", "I do not know.", _reference(LEETCODE)).status == "wrong_format"
