"""SciCode's steps on the problems that nemo-gym ships, with targets computed from their gold code."""

import ast
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from environments.episode import Episode, as_task
from evals.registry import benchmark
from evals.sources import Loading, package_folder
from evals.tasks.scicode import TARGETS, Steps, by_step, run_step
from reward.sandbox import SandboxError
from workbench.chat import Reply
from workbench.errors import UserError
from workbench.records import Sample

# Problems of one step, and of the long one the first two steps.
PROBLEMS = {"1": 1, "4": 1, "10": 2}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    pytest.importorskip("h5py")
    try:
        path = package_folder("resources_servers", "scicode") / "scicode/data/example.jsonl"
    except UserError:
        pytest.skip("nemo-gym is not installed (scripts/setup.sh evals)")
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {**row, "sub_steps": row["sub_steps"][: PROBLEMS[row["problem_id"]]]}
        for row in found
        if row["problem_id"] in PROBLEMS
    ]


@pytest.fixture(scope="module")
def data(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder: problems, and targets in the official file's form."""
    import h5py

    folder = tmp_path_factory.mktemp("data")
    (folder / "scicode.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with h5py.File(folder / TARGETS, "w") as file:
        for row in rows:
            code = row["required_dependencies"]
            for step in row["sub_steps"]:
                code += "\n" + step["ground_truth_code"]
                namespace: dict[str, Any] = {}
                exec(code, namespace)
                for number, test in enumerate(step["test_cases"], 1):
                    group = file.create_group(f"{step['step_number']}/test{number}")
                    group.create_dataset("var1", data=_target(namespace, test))
    return folder


def _target(namespace: dict[str, Any], test: str) -> Any:
    """What `np.allclose(VALUE, target)` of a test compares with, by running the gold code here. Tests
    of one step share their names, as in the official program."""
    *setup, last = ast.parse(test).body
    assert isinstance(last, ast.Assert) and isinstance(last.test, ast.Call)
    exec(compile(ast.Module(setup, []), "test", "exec"), namespace)
    return eval(compile(ast.Expression(last.test.args[0]), "test", "eval"), namespace)


def _play(data: Path, problem: str, write: Any) -> Steps:
    questions = benchmark("scicode").load(Loading(data))
    steps = Steps()
    played = Episode(steps, as_task(next(q for q in questions if q.id == f"scicode-{problem}")))
    played.begin()
    while (asked := played.ask()) is not None:
        place = len(steps.codes)
        code = write(steps.entry["sub_steps"][place], asked.messages[0]["content"])
        played.answer(Reply("", f"Here:\n```python\n{code}\n```", None, True))
    return steps


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gold_code_passes_every_step(data: Path, problem: str) -> None:
    verdict = _play(data, problem, lambda step, _: step["ground_truth_code"]).verify()
    assert verdict.value == 1.0, verdict
    assert verdict.parts["passed"] == verdict.parts["total"] == PROBLEMS[problem]


def test_each_step_counts_and_sees_the_models_own_earlier_code(data: Path) -> None:
    prompts = []

    def write(step: Any, prompt: str) -> str:
        prompts.append(prompt)
        good = str(step["ground_truth_code"])
        return good.replace("return", "return 7 + 0 *") if step["step_number"] == "10.1" else good

    steps = _play(data, "10", write)
    assert "7 + 0 *" in prompts[1] and "7 + 0 *" not in prompts[0]
    verdict = steps.verify()
    assert (verdict.value, verdict.parts["passed"], verdict.parts["total"]) == (0.5, 1, 2)
    assert list(verdict.parts["errors"]) == ["10.1"]
    rows = [
        Sample("10", why=verdict.parts),
        Sample("1", why={"passed": 1, "total": 1}),
        Sample("3", why={"passed": 0, "total": 2}),
    ]
    found = by_step(rows)
    assert found["subtask_accuracy"].value == pytest.approx(2 / 5)
    assert found["problem_accuracy"].value == pytest.approx(1 / 3)
    # By hand: residuals 1 - 0.8, 1 - 0.4, 0 - 0.8; sqrt(3/2 * 1.04) / 5.
    assert found["subtask_accuracy"].stderr == pytest.approx((1.5 * 1.04) ** 0.5 / 5)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def cg(A, b, x0, tol):\n    return x0", "AssertionError"),
        ("def cg(A, b, x0, tol):\n    raise SystemExit(0)", "ended early"),
        ("import os\nos._exit(0)", "ended early"),
        ("", "NameError"),
        ("this is not a program", "SyntaxError"),
    ],
)
def test_wrong_code_and_early_ends_do_not_pass(
    data: Path, rows: list[dict[str, Any]], code: str, why: str
) -> None:
    row = next(row for row in rows if row["problem_id"] == "1")
    problem = run_step(
        f"{row['required_dependencies']}\n{code}", row["sub_steps"][0], data / TARGETS
    )
    assert why in problem


def test_a_package_that_is_missing_here_is_no_score(data: Path, rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["problem_id"] == "1")
    with pytest.raises(SandboxError, match="needs another package"):
        run_step("import no_such_package", row["sub_steps"][0], data / TARGETS)


def test_without_the_targets_one_line_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"put it at {tmp_path}/{TARGETS}"):
        benchmark("scicode").load(Loading(tmp_path))
    assert f"{tmp_path}/{TARGETS}" in benchmark("scicode").data.status(tmp_path)


def test_the_sandbox_gives_only_the_packages_that_are_asked_for() -> None:
    from reward.sandbox import run_program

    code = "import numpy, sys\nprint(numpy.arange(3).sum())\nimport yaml"
    run = run_program(code, packages=("numpy",))
    assert run.stdout.strip() == "3" and "yaml" in run.stderr, run
    assert "numpy" in run_program("import numpy").stderr
    outside = f"import os\nprint(os.listdir({str(Path(sys.prefix) / 'lib')!r}))"
    listed = run_program(outside, packages=("numpy",))
    assert "yaml" not in listed.stdout, listed
    # Without namespaces Landlock alone stands between the code and other packages' files.
    other = importlib.util.find_spec("yaml")
    assert other is not None and other.origin is not None
    real = str(Path(other.origin).resolve())
    try:
        alone = run_program(
            f"import numpy\nprint(numpy.arange(3).sum())\nopen({real!r})",
            packages=("numpy",),
            without=("namespaces",),
        )
    except SandboxError:
        return  # no Landlock on this kernel
    assert alone.stdout.strip() == "3" and "PermissionError" in alone.stderr, alone


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sub_steps", ["one"], "step 1 has no right step_number"),
        ("sub_steps", [{}], "step 1 has no right step_number"),
        ("test_cases", "assert f()", "step 1 has no right test_cases"),
        ("return_line", None, "step 1 has no right return_line"),
        ("required_dependencies", ["numpy"], "required_dependencies is .*give a text"),
    ],
)
def test_a_row_of_another_shape_is_one_line(
    tmp_path: Path, column: str, value: Any, says: str
) -> None:
    texts = (
        "step_number",
        "step_description_prompt",
        "step_background",
        "function_header",
        "return_line",
    )
    step = {**dict.fromkeys(texts, "x"), "test_cases": []}
    row: dict[str, Any] = {
        "problem_id": "1", "required_dependencies": "", "sub_steps": [{**step, column: value}],
    }  # fmt: skip
    row |= {column: value} if column in row else {}
    (tmp_path / "scicode.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / TARGETS).write_bytes(b"")
    with pytest.raises(UserError, match=f"scicode.jsonl, line 1: .*{says}"):
        benchmark("scicode").load(Loading(tmp_path))
