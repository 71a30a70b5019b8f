"""LiveCodeBench from rows in the hub's form: the split, the prompt, the verdict, and what is kept."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from evals.registry import benchmark
from evals.samples import _shown
from evals.sources import Loading
from reward import check
from reward.contest import read_tests
from workbench.errors import UserError


def _row(number: int, date: str, *, function: str = "", tests: Any = ()) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(list(tests))))).decode()
    return {
        "question_id": f"p{number}",
        "question_content": "Print twice the number.",
        "starter_code": "class Solution:\n    def twice(self, n: int) -> int:" if function else "",
        "contest_date": f"{date}T00:00:00",
        "difficulty": "easy" if number % 2 else "hard",
        "public_test_cases": json.dumps([{"input": "2", "output": "4", "testtype": "stdin"}]),
        "private_test_cases": packed,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    hidden = [{"input": "5", "output": "10"}]
    rows = [
        _row(1, "2024-06-30"),
        _row(2, "2024-07-01", tests=hidden),
        _row(3, "2024-12-31", function="twice", tests=hidden),
        _row(4, "2025-01-01"),
    ]
    (tmp_path / "livecodebench.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_the_split_is_july_to_december_2024(data: Path) -> None:
    questions = benchmark("livecodebench").load(Loading(data))
    assert [q.id for q in questions] == ["lcb-p2", "lcb-p3"]
    assert [q.domain for q in questions] == ["hard", "easy"]
    first, second = (str(q.messages[0]["content"]) for q in questions)
    assert "standard input" in first and "def twice" in second


def _written(folder: Path, **columns: Any) -> Loading:
    row = {**_row(1, "2024-08-01"), **columns}
    (folder / "livecodebench.jsonl").write_text(json.dumps(row) + "\n")
    return Loading(folder)


def test_columns_may_be_objects_in_place_of_their_texts(tmp_path: Path) -> None:
    tests = [{"input": "2", "output": "4"}]
    hidden = [{"input": "5", "output": "10"}]
    loading = _written(
        tmp_path,
        metadata={"func_name": "twice"},
        public_test_cases=tests,
        private_test_cases=hidden,
    )
    (asked,) = benchmark("livecodebench").load(loading)
    assert asked.check is not None
    assert asked.check.reference["function"] == "twice"
    assert read_tests(asked.check.reference) == [*tests, *hidden]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"metadata": "{"}, "metadata is .*give an object"),
        ({"metadata": ["twice"]}, "metadata is .*give an object"),
        ({"public_test_cases": "[{"}, "public_test_cases is .*give a list"),
        ({"public_test_cases": [["2", "4"]]}, "each with input and output"),
        (
            {"private_test_cases": [{"in": "2"}]},
            "private_test_cases is .*each with input and output",
        ),
        ({"public_test_cases": "", "private_test_cases": []}, "it has no test cases"),
    ],
)
def test_what_is_no_test_is_said_with_its_row(
    tmp_path: Path, columns: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=f"livecodebench.jsonl, line 1: .*{says}"):
        benchmark("livecodebench").load(_written(tmp_path, **columns))


@pytest.mark.parametrize(
    ("number", "code", "value"),
    [
        (0, "print(2 * int(input()))", 1.0),
        (0, "print(4)", 0.0),  # right on the public test, wrong on the hidden one
        (1, "class Solution:\n    def twice(self, n):\n        return 2 * n", 1.0),
        (1, "class Solution:\n    def twice(self, n):\n        return 4", 0.0),
    ],
)
def test_hidden_tests_decide(data: Path, number: int, code: str, value: float) -> None:
    spec = benchmark("livecodebench").load(Loading(data))[number].check
    assert spec is not None
    verdict = check(spec.kind, f"```python\n{code}\n```", spec.reference, **spec.options)
    assert verdict.value == value
    assert verdict.parts["total"] == 2


def test_megabytes_of_tests_are_not_written_into_every_sample() -> None:
    assert _shown({"packed": "x" * 200_000}) == "(200,014 characters)"
    assert _shown({"packed": "x"}) == {"packed": "x"}
