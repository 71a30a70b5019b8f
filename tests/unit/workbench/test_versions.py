"""Declared versions: what a raised one runs again, in the recipes that are shipped, and what it does not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reward.dispatch import CHECKERS
from reward.versions import CHECK_VERSIONS
from sft.config import SftConfig
from tests.unit.workbench.test_graph import done
from workbench import registry
from workbench.graph.dag import decide, declared_versions, order
from workbench.graph.plan import plan_run
from workbench.recipe import Recipe, load
from workbench.rundir import RunDir

SHIPPED = ("smoke", "miniature", "miniature-paper")
# Kinds whose results checkers decide; a world source and a blend run none.
CHECKED = {
    "grpo", "dpo", "reward_model", "merge", "evals", "ablation", "synthesize", "rejection",
    "distill_on_policy", "search",
}  # fmt: skip


def finished(name: str, folder: Path) -> tuple[Recipe, RunDir]:
    recipe, run = load(f"recipes/{name}.yaml"), RunDir(folder / "run")
    for stage in order(recipe, ["all"]):
        done(recipe, run, stage, stage)
    return recipe, run


def again(recipe: Recipe, run: RunDir) -> dict[str, str]:
    """Stage that runs -> why, as --dry-run decides it: a stage behind one that runs, runs."""
    plan = plan_run(recipe, RunDir(run.root), order(recipe, ["all"]))
    return {name: d.reason for name, d in plan.decisions.items() if d.run}


def behind(recipe: Recipe, stages: set[str]) -> set[str]:
    """These stages and all that need them."""
    found = set(stages)
    for name in order(recipe, ["all"]):
        if found & set(recipe.stages[name].needs):
            found.add(name)
    return found


def raised(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(registry.kinds(), kind, replace(registry.kinds()[kind], version=99))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_finished_run_is_skipped_whole(name: str, tmp_path: Path) -> None:
    recipe, run = finished(name, tmp_path)
    assert again(recipe, run) == {}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("kind", ["tokenizer", "pretrain", "sft", "grpo", "dpo", "evals", "merge"])
def test_a_raised_version_runs_its_stages_again_and_what_is_behind_them(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = finished(name, tmp_path)
    was = registry.kinds()[kind].version
    raised(monkeypatch, kind)
    own = {n for n, stage in recipe.stages.items() if stage.kind == kind}
    if kind == "evals":  # a merge is picked by evaluations
        own |= {n for n, stage in recipe.stages.items() if stage.kind == "merge"}
    found = again(recipe, run)
    assert set(found) == behind(recipe, own)
    assert {found[stage] for stage in own} <= {
        f"version 99 of {kind} gives a different result from {was}"
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_another_checker_repeats_no_training_on_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = finished(name, tmp_path)
    monkeypatch.setitem(CHECK_VERSIONS, "math", 99)
    own = {n for n, stage in recipe.stages.items() if stage.kind in CHECKED}
    found = again(recipe, run)
    assert set(found) == behind(recipe, own)
    assert not {"tokenizer", "pretrain", "sft1", "sft2", "sft3"} & set(found)
    assert found["grpo"] == "version 99 of check math gives a different result from 2"


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("stages.sft2.lr=0.1", {"sft2"}),
        ("stages.grpo.engine.threads=2", {"grpo"}),
        ("stages.sft1.cpus=1", set()),
        ("stages.evals.limit=3", {"evals"}),
        ("seed=18", {"tokenizer"}),
        ("model.overrides.layer_norm_epsilon=1e-6", {"tokenizer"}),
        ("stages.evals.needs=[grpo, sft3, sft2, sft1, pretrain]", {"evals"}),
        ("stages.pretrain.blend.phases.0.until=0.05", {"pretrain"}),
        ("runs_dir=elsewhere", set()),
        ("about=something", set()),
    ],
)
@pytest.mark.parametrize("name", ["smoke", "miniature"])
def test_what_a_changed_key_runs_again(
    name: str, override: str, first: set[str], tmp_path: Path
) -> None:
    _, run = finished(name, tmp_path)
    changed = load(f"recipes/{name}.yaml", [override])
    assert set(again(changed, run)) == behind(changed, first)


class LaterSft(SftConfig):
    """The section of a release that knows one more key."""

    further: int = 0


def test_a_release_with_a_further_key_runs_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = finished("smoke", tmp_path)
    later = replace(registry.kinds()["sft"], config=f"{__name__}:LaterSft")
    monkeypatch.setitem(registry.kinds(), "sft", later)
    recipe = load("recipes/smoke.yaml")
    assert recipe.stages["sft2"].further == 0  # type: ignore[attr-defined]
    assert again(recipe, run) == {}
    used = load("recipes/smoke.yaml", ["stages.sft2.further=1"])
    assert set(again(used, run)) == behind(used, {"sft2"})


@pytest.mark.parametrize("name", ["smoke", "miniature"])
def test_a_stage_that_was_stopped_continues_and_what_is_behind_it_follows(
    name: str, tmp_path: Path
) -> None:
    recipe, run = finished(name, tmp_path)
    path = run.stage("sft2") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    assert decide(recipe, run, "sft2", set()).resume
    found = again(recipe, run)
    assert found["sft2"] == "continues where it stopped"
    assert set(found) == behind(recipe, {"sft2"})


def test_a_result_of_before_versions_runs_again(tmp_path: Path) -> None:
    recipe, run = finished("smoke", tmp_path)
    path = run.stage("evals") / "manifest.json"
    old = json.loads(path.read_text()) | {"code_digest": "283d11427225fefa"}
    old.pop("declared")
    path.write_text(json.dumps(old))
    assert re.match(r"version \d+ of check ", again(recipe, run)["evals"])


def test_checkers_count_where_a_filter_runs_them() -> None:
    def versions(filters: str) -> dict[str, int]:
        path = "stages.sft1.parts.world.source"
        source = (
            f"{{type: jsonl, path: a.jsonl, form: conversation, clean: {{filters: [{filters}]}}}}"
        )
        return declared_versions(load("recipes/smoke.yaml", [f"{path}={source}"]), "sft1")

    assert versions("{name: has_reply}") == {"sft": 1}
    assert versions("{name: passes_check}") == {
        "sft": 1,
        **{f"check {k}": CHECK_VERSIONS[k] for k in CHECKERS},
    }


def test_every_kind_and_every_checker_has_a_version() -> None:
    assert set(CHECK_VERSIONS) == set(CHECKERS)
    for table in (CHECK_VERSIONS, {n: k.version for n, k in registry.kinds().items()}):
        assert all(type(version) is int and version >= 1 for version in table.values())
    assert {n for n, kind in registry.kinds().items() if kind.checks} == CHECKED
