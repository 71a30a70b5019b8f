"""The sweep's command: a signal stops it and keeps what has ended, whatever Ray does to handlers."""

import argparse
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.command import SweepCommand
from evals.models import Model
from evals.run import Progress
from evals.sweep import must_answer
from reports import read_run, write_pages
from tests.judge_server import Said, judge_server
from workbench.errors import StopRequested, UserError
from workbench.recipe import load
from workbench.rundir import write_json
from workbench.stage import stage_seed


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_stops_a_sweep_once_ray_has_put_its_own_handler_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    args = argparse.Namespace(
        recipe="recipes/smollm2-table.yaml", overrides=[f"runs_dir={tmp_path}"], run="signals",
        models=str(tmp_path / "model"), benchmarks="gsm8k-100", budgets=None, samples=None, limit=1,
    )  # fmt: skip
    command = SweepCommand.build(args)
    by_ray: list[int] = []

    def connect(*_: Any, **__: Any) -> str:
        signal.signal(signal.SIGTERM, lambda number, _: by_ray.append(number))
        return "started"

    def sweep(models: Any, config: Any, *, out: Path, seed: int, watch: Any) -> Any:
        assert watch(models[0], Progress()) is False
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch(models[0], Progress()) is True
        # A request may be open for half an hour: the second one is not caught.
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        raise StopRequested("stopped")

    monkeypatch.setattr("workbench.cluster.connect", connect)
    monkeypatch.setattr("workbench.cluster.disconnect", lambda: None)
    monkeypatch.setattr("evals.sweep.sweep", sweep)
    out, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    assert command.run(out, lambda root: []) == 1
    assert by_ray == []
    assert signal.getsignal(signal.SIGTERM) is before
    assert "the same command continues" in out.getvalue()


def _args(runs: Path, **more: Any) -> argparse.Namespace:
    given = {
        "recipe": "recipes/miniature.yaml", "overrides": [f"runs_dir={runs}"], "run": "mini",
        "models": "grpo", "benchmarks": "mini-math", "budgets": None, "samples": None, "limit": 5,
    } | more  # fmt: skip
    given["overrides"] = [f"runs_dir={runs}", *more.get("set", [])]
    return argparse.Namespace(**given)


def _run_with_a_result(runs: Path, args: argparse.Namespace) -> Path:
    """A run with a model at grpo, and the result that the recipe's evals stage would make of it."""
    (runs / "mini" / "grpo" / "model").mkdir(parents=True)
    (runs / "mini" / "grpo" / "model" / "config.json").write_text("{}")
    job = SweepCommand.build(args).jobs[0]
    sampling = {key: getattr(job.sampling, key) for key in ("temperature", "top_p", "max_tokens")}
    folder = runs / "mini" / "evals" / "grpo" / "mini-math"
    write_json(
        folder / "results.json",
        {"sampling": {**sampling, "limit": 60}, "seed": job.sampling.seed, "num_samples": 1},
    )
    return folder


def test_a_sweep_never_replaces_the_evals_stages_results(tmp_path: Path) -> None:
    folder = _run_with_a_result(tmp_path, _args(tmp_path))
    SweepCommand.build(_args(tmp_path))  # fewer questions of the same settings
    SweepCommand.build(_args(tmp_path, limit=500, samples=4))
    for words, named in (
        (["evals.temperature=1.0"], "temperature 0.0, not 1.0"),
        (["seed=3"], "seed"),
        (["stages.evals.max_tokens=9"], "max_tokens 128, not 9"),
        (["evals.engine.dtype=bfloat16"], "dtype float32, not bfloat16"),
    ):
        with pytest.raises(UserError) as refused:
            SweepCommand.build(_args(tmp_path, set=words))
        text = str(refused.value)
        assert named in text and "\n" not in text
        assert f"--run OTHER-NAME --models {tmp_path / 'mini' / 'grpo'}" in text
    # The way out that the line names, and a place that the stage does not write to.
    elsewhere = {"run": "other", "models": str(tmp_path / "mini" / "grpo")}
    SweepCommand.build(_args(tmp_path, set=["evals.temperature=1.0"], **elsewhere))
    SweepCommand.build(_args(tmp_path, set=["evals.temperature=1.0"], budgets="16"))
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_a_seed_given_here_is_the_sweeps_own(tmp_path: Path) -> None:
    """It was ignored wherever the recipe has an evals stage."""
    _run_with_a_result(tmp_path, _args(tmp_path))
    of_stage = SweepCommand.build(_args(tmp_path)).seed
    with pytest.raises(UserError, match=f"seed {of_stage}, not 3"):
        SweepCommand.build(_args(tmp_path, set=["evals.seed=3"]))
    elsewhere = {"run": "other", "models": str(tmp_path / "mini" / "grpo")}
    command = SweepCommand.build(_args(tmp_path, set=["evals.seed=3"], **elsewhere))
    assert command.seed == 3
    assert {job.sampling.seed for job in command.jobs} == {3}
    # The recipe's word on its stage holds where nothing is said here.
    command = SweepCommand.build(_args(tmp_path, set=["stages.evals.seed=5"], **elsewhere))
    assert command.seed == 5


def test_of_several_evals_stages_the_one_that_asks_the_benchmark_counts(tmp_path: Path) -> None:
    """A sweep took the settings of the first, and replaced what another one had made."""
    recipe = load("recipes/smollm2.yaml")
    model = tmp_path / "real" / "sft" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    more = {
        "recipe": "recipes/smollm2.yaml", "run": "real", "models": "sft", "limit": None,
        "budgets": "none", "benchmarks": "live-tools-held-out",
    }  # fmt: skip
    command = SweepCommand.build(_args(tmp_path, **more))
    assert command.seed == stage_seed(recipe, "tools")
    assert command.config.engine.replicas == 2
    job = command.jobs[0]
    sampling = {key: getattr(job.sampling, key) for key in ("temperature", "top_p", "max_tokens")}
    write_json(
        tmp_path / "real" / "evals" / "sft" / job.folder / "results.json",
        {"sampling": {**sampling, "limit": None}, "seed": command.seed, "num_samples": 1},
    )
    SweepCommand.build(_args(tmp_path, **more))
    with pytest.raises(UserError, match="temperature 0.0, not 1.0"):
        SweepCommand.build(_args(tmp_path, set=["evals.temperature=1.0"], **more))
    # Asked beside more benchmarks of the other stage, it is kept all the same.
    both = more | {"benchmarks": "small-arithmetic-held-out,live-tools-held-out"}
    with pytest.raises(UserError, match="seed"):
        SweepCommand.build(_args(tmp_path, **both))


def test_a_run_of_another_recipe_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    _run_with_a_result(tmp_path, _args(tmp_path))
    write_json(tmp_path / "mini" / "recipe.json", {"name": "another"})
    with pytest.raises(UserError, match="belongs to recipe 'another'"):
        SweepCommand.build(_args(tmp_path))


@pytest.mark.parametrize("budgets", ["", ",", "²"])
def test_no_budget_is_no_sweep(tmp_path: Path, budgets: str) -> None:
    _run_with_a_result(tmp_path, _args(tmp_path))
    with pytest.raises(UserError, match="write tokens, or none"):
        SweepCommand.build(_args(tmp_path, budgets=budgets))


def test_a_sweep_says_what_stayed_and_where_its_pages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run_with_a_result(tmp_path, _args(tmp_path))
    recipe = "cluster.backend=local"
    command = SweepCommand.build(_args(tmp_path, budgets="none,4", set=[recipe]))

    def sweep(models: Any, config: Any, *, out: Path, seed: int, watch: Any) -> Any:
        metric = {"accuracy": {"value": 0.5, "stderr": 0.1, "ci95": [0.3, 0.7]}}
        made = [
            {"model": "grpo", "benchmark": "mini-math", "budget": budget, "n": n, "num_samples": 1, "failed": 0,
             "truncated": 0, "headline": "accuracy", "metrics": metric, "well_formed_rate": 1.0,
             "sampling": {"limit": n}}
            for budget, n in ((None, 60), (4, 5))
        ]  # fmt: skip
        write_json(folder / "results.json", made[0])
        return {"grpo": made}

    monkeypatch.setattr("evals.sweep.sweep", sweep)
    out = io.StringIO()
    assert command.run(out, lambda root: write_pages(read_run(root))) == 0
    kept = [line for line in out.getvalue().splitlines() if "are there already" in line]
    assert len(kept) == 1
    assert kept[0].startswith("grpo: mini-math: ")
    run = tmp_path / "mini"
    assert f"table and samples: {run / 'evals' / 'index.html'}" in out.getvalue()
    assert f"report: {run / 'report.html'}" in out.getvalue()
    assert 'href="evals/index.html"' in (run / "report.html").read_text()
    assert 'href="../report.html"' in (run / "evals" / "index.html").read_text()


def test_a_served_model_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable, "scripts/sweep.py", "--recipe", "recipes/miniature.yaml", "--models",
        "http://127.0.0.1:9/v1#x", "--benchmarks", "mini-math", "--set", f"runs_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nothing answers at http://127.0.0.1:9/v1" in done.stderr
    assert not list(tmp_path.glob("*/evals/*"))
    with judge_server(lambda asked: Said()) as server:  # it lists no models: an answer all the same
        must_answer(Model("x", server.address))
