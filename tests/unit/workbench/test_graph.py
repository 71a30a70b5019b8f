"""The graph: order, cycles, what is skipped and why."""

from dataclasses import replace
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.graph.dag import config_digest, data_digests, decide, declared_versions, order
from workbench.recipe import Recipe, build
from workbench.rundir import Manifest, RunDir
from workbench.stage import stage_seed

PART = {"math": {"source": {"type": "world", "domain": "math"}, "samples": 5}}


def recipe(**changes: object) -> Recipe:
    stages = {
        "c": {"kind": "sft", "needs": ["b"], "parts": PART},
        "a": {"kind": "sft", "parts": PART},
        "b": {"kind": "sft", "needs": ["a"], "parts": PART, **changes},
        "d": {"kind": "sft", "needs": ["a"], "parts": PART},
    }
    return build({"name": "t", "stages": stages})


def done(recipe: Recipe, run: RunDir, stage: str, completion: str) -> Manifest:
    needs = recipe.stages[stage].needs
    sources = {need: run.manifest(need) for need in needs}
    manifest = Manifest(
        stage=stage,
        kind=recipe.stages[stage].kind,
        status="done",
        inputs={need: str(m.completion) for need, m in sources.items() if m},
        config_digest=config_digest(recipe, stage),
        declared=declared_versions(recipe, stage),
        seed=stage_seed(recipe, stage),
        data=data_digests(recipe, run, stage),
        completion=completion,
    )
    run.write_manifest(manifest)
    return manifest


def test_a_stage_comes_after_all_it_needs_and_nothing_else_is_chosen() -> None:
    assert order(recipe(), ["c"]) == ["a", "b", "c"]
    assert order(recipe(), ["all"]) == ["a", "b", "d", "c"]


def test_unknown_stages_and_cycles_are_user_errors() -> None:
    with pytest.raises(UserError, match="unknown stage 'e'"):
        order(recipe(), ["e"])
    with pytest.raises(UserError, match="circle"):
        order(recipe(needs=["c"]), ["a"])


def test_done_and_unchanged_is_skipped_and_each_change_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert decide(recipe(), run, "a", set()).reason == "not run yet"
    done(recipe(), run, "a", "a1")
    b = done(recipe(), run, "b", "b1")
    assert not decide(recipe(), run, "b", set()).run
    assert decide(recipe(lr=1e-3), run, "b", set()).reason == "its configuration changed"
    assert decide(recipe(), run, "b", {"a"}).reason == "what it needs runs again"
    done(recipe(), run, "a", "a2")
    assert decide(recipe(), run, "b", set()).reason == "its input a changed"
    run.write_manifest(replace(b, inputs={"a": "a2"}, declared={"sft": 0}))
    reason = decide(recipe(), run, "b", set()).reason
    assert reason == "version 1 of sft gives a different result from 0"
    run.write_manifest(replace(b, inputs={"a": "a2"}, status="running"))
    assert decide(recipe(), run, "b", set()).resume


def test_resources_do_not_change_a_stage() -> None:
    assert config_digest(recipe(), "b") == config_digest(recipe(cpus=8, gpus=2), "b")


def test_a_run_of_another_recipe_and_a_run_in_use_are_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.claimed():
        run.adopt({"name": "one"})
        with pytest.raises(UserError, match="belongs to recipe 'one'"):
            run.adopt({"name": "two"})
        with pytest.raises(UserError, match="in use"), RunDir(tmp_path / "run").claimed():
            pass


def test_resources_do_not_count_and_options_of_the_users_own_of_the_same_names_do() -> None:
    def grpo(options: dict[str, object], **more: object) -> str:
        tasks = {"type": "docs/examples/lamps.py:Lamps", "split": "train", "options": options}
        prompts = {"type": "environment", "tasks": tasks}
        stage = {"kind": "grpo", "prompts": prompts, "held_out": prompts, **more}
        return config_digest(build({"name": "t", "stages": {"grpo": stage}}), "grpo")

    own: list[dict[str, object]] = [
        {},
        {"wait_s": 1},
        {"wait_s": 9},
        {"restarts": 1},
        {"cpus": 2},
        {"deep": {"gpus": 1}},
    ]
    assert len({grpo(options) for options in own}) == len(own)
    vllm = [grpo({}, engine={"vllm": {"gpus": n}}) for n in (1, 2)]
    assert len({*vllm, grpo({})}) == 3
    engine = {"gpus": 0.5, "gpu_memory_utilization": 0.3, "cpus": 1}
    assert grpo({}, cpus=3, engine=engine) == grpo({})


def test_keys_of_a_stage_within_another_are_read_as_those_of_a_stage() -> None:
    def merge(**more: object) -> str:
        stages = {
            "a": {"kind": "sft", "parts": PART},
            "b": {"kind": "sft", "parts": PART},
            "m": {
                "kind": "merge", "needs": ["a", "b"], "alphas": [0.5],
                "evals": {"benchmarks": ["mini-math"], **more},
            },
        }  # fmt: skip
        return config_digest(build({"name": "t", "stages": stages}), "m")

    assert merge() == merge(cpus=4, engine={"gpus": 0.5}) != merge(limit=4)
