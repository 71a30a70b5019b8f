"""Finished stages of another run are taken over: those that would be skipped there, and no others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workbench.test_graph import done, recipe
from workbench.errors import UserError
from workbench.graph.plan import plan_run
from workbench.graph.take import answered, runs_named, take, take_replies, takeable, taken_lines
from workbench.recipe import build
from workbench.rundir import RunDir

ORDER = ["a", "b", "c"]


def finished(folder: Path, name: str, *stages: str) -> RunDir:
    run = RunDir(folder / name)
    for stage in stages:
        done(recipe(), run, stage, f"{stage} of {name}")
    run.adopt(recipe().resolved())
    return run


def test_each_stage_comes_from_the_first_run_that_has_it(tmp_path: Path) -> None:
    one, two = finished(tmp_path, "one", "a"), finished(tmp_path, "two", "a", "b")
    origins = runs_named(["one", str(two.root)], tmp_path)
    run = RunDir(tmp_path / "mine")
    found = takeable(recipe(), run, ORDER, origins)
    # `b` of the second run was made from another `a` than the first run's.
    assert found == {"a": one.root}
    found = takeable(recipe(), run, ORDER, origins[1:])
    assert found == {"a": two.root, "b": two.root}
    assert taken_lines(found) == ["from run two: a, b"]


def test_what_the_recipe_says_otherwise_of_is_left_with_all_that_follows(tmp_path: Path) -> None:
    origin = finished(tmp_path, "one", "a", "b", "c")
    run = RunDir(tmp_path / "mine")
    assert takeable(recipe(lr=1e-3), run, ORDER, [origin.root]) == {"a": origin.root}
    done(recipe(), run, "b", "b of mine")  # its own, made from nothing that is here
    assert takeable(recipe(), run, ORDER, [origin.root]) == {"a": origin.root}


def test_large_files_are_shared_and_records_are_not(tmp_path: Path) -> None:
    origin, run = finished(tmp_path, "one", "a"), RunDir(tmp_path / "mine")
    (origin.stage("a") / "model").mkdir()
    (origin.stage("a") / "model" / "large").write_bytes(b"x" * (2 << 20))
    run.adopt(recipe().resolved())
    take(run, {"a": origin.root})
    assert (run.stage("a") / "model" / "large").stat().st_nlink == 2
    assert (run.stage("a") / "manifest.json").stat().st_nlink == 1
    assert run.manifest("a") == origin.manifest("a")
    assert takeable(recipe(), run, ["a"], [origin.root]) == {}


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"take 'none': there is no run of that name, here or in"):
        runs_named(["none"], tmp_path)


def test_a_stage_that_is_made_anew_while_it_is_copied_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, run = finished(tmp_path, "one", "a"), RunDir(tmp_path / "mine")
    run.adopt(recipe().resolved())
    copy = shutil.copytree

    def copied(*given: Any, **options: Any) -> Any:
        made = copy(*given, **options)
        done(recipe(), origin, "a", "another result")
        return made

    monkeypatch.setattr(shutil, "copytree", copied)
    with pytest.raises(UserError, match="run one made a anew meanwhile"):
        take(run, {"a": origin.root})
    assert not run.stage("a").exists() and not list(run.root.glob(".*half"))


def test_a_plan_skips_what_is_going_to_be_taken(tmp_path: Path) -> None:
    origin = finished(tmp_path, "one", "a")
    plan = plan_run(recipe(), RunDir(tmp_path / "mine"), ["a", "b"], taken={"a": origin.root})
    assert not plan.decisions["a"].run and plan.decisions["b"].run
    assert "  a: skip (to be taken over from run one)" in plan.lines


def test_evaluations_run_and_find_the_replies_of_another_run(tmp_path: Path) -> None:
    """Their results lie apart from their folders: a stage that is done here must have them here."""
    evals = {"kind": "evals", "needs": ["a"], "benchmarks": ["mini-math"]}
    plain = recipe().resolved()
    whole = build({**plain, "stages": {"a": plain["stages"]["a"], "budgets": evals}})
    origin, run = RunDir(tmp_path / "one"), RunDir(tmp_path / "mine")
    for stage in ("a", "budgets"):
        done(whole, origin, stage, f"{stage} of one")
    reply = Path("a", "mini-math", "samples.jsonl")
    for path in (origin.root / "evals" / reply, origin.root / "evals" / "tensorboard" / "events"):
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
    stages, origins = ["a", "budgets"], [origin.root]
    found, replies = takeable(whole, run, stages, origins), answered(whole, run, stages, origins)
    assert found == {"a": origin.root} and list(replies) == origins
    assert answered(whole, run, ["a"], origins) == {}
    take(run, found)
    take_replies(run, replies)
    assert taken_lines(found, replies) == ["from run one: a, replies to benchmarks"]
    assert [p.relative_to(run.root) for p in run.root.rglob("*.jsonl")] == [".taken/0" / reply]
    done(whole, run, "budgets", "budgets of mine")
    assert answered(whole, run, stages, origins) == {}
