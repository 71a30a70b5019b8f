"""LiveCodeBench: contest problems of six months, judged by their tests in the sandbox."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, Row, answer, anything, mapping, objects, text
from evals.sources import Data, Hub, Loading, rows_of
from evals.statistics import strata
from workbench.conversation import CheckSpec, Conversation
from workbench.records import Estimate, Sample

# NeMo-Skills' split test_v5_2407_2412, the one behind the paper's table (07/24 to 12/24).
_FIRST, _LAST = "2024-07", "2024-12"
SPLIT_SIZE = 315
_HUB = Hub("livecodebench/code_generation_lite", "release_v5", "test", "refs/pr/7")


def _cases(value: Any) -> list[dict[str, Any]]:
    """Test cases, or the JSON text of them; [] where there are none."""
    if value is None or value == "" or value in ([], "[]"):
        return []
    found = objects(value)
    if not all(isinstance(case, Mapping) and {"input", "output"} <= set(case) for case in found):
        raise ValueError("give a list of test cases, each with input and output")
    return found


def _packed(value: Any) -> str | None:
    """Further test cases as the hub packs them, or as they are: then as JSON text."""
    if isinstance(value, str) and value.strip() and not value.lstrip().startswith("["):
        return value
    found = _cases(value)
    return (value if isinstance(value, str) else json.dumps(found)) if found else None


_COLUMNS: dict[str, Read] = {
    "question_id": answer,
    "question_content": text,
    "starter_code": anything,
    "contest_date": anything,
    "public_test_cases": _cases,
    "private_test_cases": _packed,
    "metadata": mapping,
}
_PROMPT = "Solve this programming contest problem in Python.\n\n{problem}\n\n{form}"
_STDIN = (
    "The program reads its input from standard input and writes the answer to standard output, and "
    "nothing else. Answer with the whole program in one ```python block."
)
_FUNCTION = (
    "Complete this code. Answer with all of it in one ```python block; it is called, so read no "
    "input.\n\n```python\n{code}\n```"
)


def question(row: Mapping[str, Any]) -> Conversation:
    """A row with its columns read. The tests that it packs stay packed until they are run."""
    function = row["metadata"].get("func_name") or None
    starter = str(row["starter_code"] or "").strip()
    form = _FUNCTION.format(code=starter) if starter else _STDIN
    reference = {
        "tests": row["public_test_cases"],
        "packed": row["private_test_cases"],
        **({"function": function} if function else {}),
    }
    return Conversation(
        id=f"lcb-{row['question_id']}",
        domain=str(row.get("difficulty") or "contest"),
        messages=[
            {
                "role": "user",
                "content": _PROMPT.format(problem=row["question_content"].strip(), form=form),
            }
        ],
        check=CheckSpec("contest", reference, {}),
    )


def in_split(row: Mapping[str, Any]) -> bool:
    """Whether a problem is of the six months that the paper reports."""
    return _FIRST <= str(row["contest_date"])[:7] <= _LAST


def _has_tests(row: Row) -> None:
    if not row["public_test_cases"] and not row["private_test_cases"]:
        raise ValueError("it has no test cases; give public_test_cases, private ones, or both")


def _load(loading: Loading) -> list[Conversation]:
    rows = rows_of("livecodebench", loading, _HUB, _COLUMNS, _has_tests)
    return [question(row) for row in [r for r in rows if in_split(r)][: loading.limit]]


def _by_difficulty(rows: Sequence[Sample]) -> dict[str, Estimate]:
    return strata(rows)


BENCHMARKS = [
    Benchmark(
        "livecodebench",
        f"LiveCodeBench v5, {SPLIT_SIZE} problems of 07/2024 to 12/2024",
        Data(f"hub {_HUB}", files=("livecodebench",)),
        _load,
        BenchmarkSampling(samples=4, source="model card; average of 4 (VL paper's protocol)"),
        metrics=_by_difficulty,
        paper={"12B aligned": 70.79, "Qwen3-8B": 59.5, "Qwen3-14B": 63.08, "9B": 71.1},
    ),
]
