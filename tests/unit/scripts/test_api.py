"""`import anneal`: the commands as functions, with their errors."""

from pathlib import Path
from typing import Any

import pytest

import anneal
from tests.judge_server import Said, judge_server


def _recipe(runs: Path) -> dict[str, Any]:
    return {
        "name": "tiny", "runs_dir": str(runs), "cluster": {"backend": "local"},
        "stages": {"evals": {"kind": "evals", "benchmarks": ["mini-math"], "limit": 2}},
    }  # fmt: skip


def test_a_sweep_from_python_gives_its_results(tmp_path: Path) -> None:
    with judge_server(lambda asked: Said("The answer is \\boxed{4}.")) as server:
        found = anneal.sweep(
            [f"a={server.address}"],
            ["mini-math"],
            recipe=_recipe(tmp_path),
            limit=2,
            budgets=[None, 0],
        )
    assert list(found) == ["a"]
    assert [(r["benchmark"], r["budget"], r["n"]) for r in found["a"]] == [
        ("mini-math", None, 2), ("mini-math", 0, 2),
    ]  # fmt: skip


def test_a_plan_from_python_is_that_of_a_dry_run(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    recipe["models"] = {"m": {"endpoint": "http://127.0.0.1:9/v1#m"}}
    recipe["stages"]["evals"]["models"] = ["m"]
    assert any("evals: run" in line for line in anneal.plan(recipe))
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_the_lines_of_the_command(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    recipe["stages"]["evals"]["limits"] = 2
    for call in (anneal.plan, anneal.run):
        with pytest.raises(anneal.UserError, match="did you mean 'limit'"):
            call(recipe)
    with pytest.raises(anneal.UserError, match="did you mean 'mini-math'"):
        anneal.sweep(["http://127.0.0.1:9/v1#m"], ["mini-maths"])
    assert anneal.check("math", "The answer is 49.", "49").value == 1.0
