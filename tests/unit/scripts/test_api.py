"""`import anneal`: the commands as functions, with their errors."""

import signal
from pathlib import Path
from typing import Any

import pytest

import anneal
from scripts.api import _File
from tests import tiny
from tests.judge_server import Said, judge_server
from workbench.errors import StopRequested
from workbench.recipe import read_yaml


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


def test_a_sweep_that_was_stopped_is_no_result_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier one has left results of fewer questions; Ctrl-C works afterwards as it did before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stopped(*_: Any, **__: Any) -> Any:
        raise StopRequested

    with judge_server(lambda asked: Said("The answer is \\boxed{4}.")) as server:
        asked: Any = ([f"a={server.address}"], ["mini-math"])
        anneal.sweep(*asked, recipe=_recipe(tmp_path), limit=1)
        monkeypatch.setattr("evals.sweep.sweep", stopped)
        with pytest.raises(anneal.RunFailed, match="the same call continues"):
            anneal.sweep(*asked, recipe=_recipe(tmp_path), limit=2)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_recipe_as_a_mapping_says_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ["1e3", "0o17", "1_0", "no", "a: b", "\u2028", "\U0001f600", "x" * 300, "two\nlines", ""]
    made = {"name": "x", "odd": odd, "on": {1: 1e-05, "1": 2}, "more": [True, None, 3, 0.5]}
    with _File(made) as file:
        assert read_yaml(Path(file)) == made
    with pytest.raises(anneal.UserError, match="give plain values"):
        anneal.plan({"name": tmp_path})
    monkeypatch.chdir(tiny.ROOT)
    assert anneal.plan({"extends": "recipes/smoke.yaml", "runs_dir": str(tmp_path)})
