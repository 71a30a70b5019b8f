"""The smoke recipe under a real Ray, killed and stopped at many moments, and as a submitted job."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.ray_head import RayHead

pytestmark = pytest.mark.stress
SMOKE = ("all", "--recipe", "recipes/smoke.yaml")
STAGES = ("tokenizer", "pretrain", "sft1", "sft2", "sft3", "grpo", "evals")


def begun(run: Path, stage: str) -> bool:
    return (run / stage / "progress.json").is_file()


def check_whole(run: Path) -> None:
    """Every stage is done, and every step of every stage stands once in its metrics."""
    for stage in STAGES:
        assert tiny.manifest(run, stage)["status"] == "done"
        path = run / stage / "metrics.jsonl"
        if path.is_file():
            steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
            assert steps == sorted(set(steps)), (stage, steps)
    results = list((run / "evals").glob("*/*/results.json"))
    assert len(results) == 5 * 7 * 2  # models, benchmarks, with and without a trace
    assert (run / "report.html").is_file()


def end_in(
    run: Path, stage: str, how: signal.Signals, after_s: float, words: tuple[str, ...]
) -> int:
    """Run until `stage` has been at work for a while, then end the driver; returns its exit code."""
    driver = tiny.start(*words)
    tiny.wait_until(
        lambda: begun(run, stage) or driver.poll() is not None, f"{stage} begins", timeout_s=400
    )
    time.sleep(after_s)
    early = driver.poll()
    if how is signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does
    else:
        driver.send_signal(how)
    out, err = driver.communicate(timeout=tiny.PATIENCE_S)
    assert err == "", err
    print(f"{stage} + {after_s:.1f} s, {how.name}: exit {driver.returncode}", flush=True)
    if early is None and how is not signal.SIGKILL:
        assert driver.returncode == 1, out
        assert "stopping: stages save their state" in out
    return driver.returncode


def test_the_smoke_recipe_is_ended_in_every_stage_and_still_completes(
    tmp_path: Path, mark: str
) -> None:
    rng = random.Random()
    words = (*SMOKE, "--set", f"runs_dir={tmp_path}")
    run = tmp_path / "smoke"
    ends = {
        "tokenizer": signal.SIGKILL, "pretrain": signal.SIGKILL, "sft1": signal.SIGINT,
        "sft2": signal.SIGKILL, "sft3": signal.SIGTERM, "grpo": signal.SIGKILL,
        "evals": signal.SIGKILL,
    }  # fmt: skip
    for stage, how in ends.items():
        end_in(run, stage, how, rng.uniform(0, 4), words)
        tiny.no_one_left(mark, but_agents=True)
    tiny.finish(*words)
    check_whole(run)
    tiny.no_one_left(mark)


def test_a_stage_whose_worker_dies_fails_and_continues(tmp_path: Path, mark: str) -> None:
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(total_tokens=400 * 256),
    }
    recipe = tiny.write_recipe(tmp_path, stages)
    run = tmp_path / "runs" / "tiny"
    driver = tiny.start("all", "--recipe", str(recipe))
    tiny.wait_for_step(driver, run, "pretrain", 20)
    tiny.kill_worker(mark, "ray::pretrain")
    out, err = driver.communicate(timeout=tiny.PATIENCE_S)
    assert (driver.returncode, err) == (1, ""), out + err
    assert "! pretrain: failed" in out and "its worker died" in out and "rerun to continue" in out
    before = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()[:18]
    tiny.finish("all", "--recipe", str(recipe))
    tiny.each_step_once(run, "pretrain", 400)
    assert (run / "pretrain" / "metrics.jsonl").read_text().splitlines()[:18] == before
    assert tiny.manifest(run, "pretrain")["attempts"] == 2


def test_grpo_is_killed_at_many_moments_and_still_completes(tmp_path: Path, mark: str) -> None:
    """Rollouts, updates, checkpoints, held-out rewards: wherever a random moment falls."""
    rng, num_steps = random.Random(), 40
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(),
        "grpo": tiny.grpo_stage(tmp_path, num_steps=num_steps, num_held_out=16),
    }
    recipe = tiny.write_recipe(tmp_path, stages, model=tiny.ENGINE_MODEL)
    run, words = tmp_path / "runs" / "tiny", ("all", "--recipe", str(recipe))
    for _ in range(6):
        before = tiny.steps(run, "grpo")
        end_in(run, "grpo", signal.SIGKILL, rng.uniform(15, 45), words)
        tiny.no_one_left(mark, but_agents=True)
        print(f"steps logged: {before} -> {tiny.steps(run, 'grpo')}", flush=True)
    tiny.finish(*words)
    tiny.each_step_once(run, "grpo", num_steps)
    assert tiny.manifest(run, "pretrain")["attempts"] == 1


def test_a_submitted_job_runs_is_stopped_and_continues(head: RayHead, mark: str) -> None:
    run = head.folder / "anneal" / "runs" / "smoke"
    out = head.submit(*SMOKE, wait=False)
    name = re.search(r"raysubmit_\w+", out)
    assert name is not None, out
    tiny.wait_until(lambda: tiny.steps(run, "pretrain") >= 5, "pretraining")
    head.job("stop", name[0])
    status = head.job("status", name[0], ok=False)
    assert "was stopped" in status, status
    logged = tiny.steps(run, "pretrain")
    out = head.submit(*SMOKE)
    assert f"the run is kept in {run}" in out
    assert "> pretrain: runs (continues where it stopped)" in out
    check_whole(run)
    assert logged >= 5
    assert tiny.manifest(run, "tokenizer")["attempts"] == 1
    again = head.submit(*SMOKE)
    assert [f"- {stage}: skipped" in again for stage in STAGES] == [True] * len(STAGES), again
    driver_words = [words for words in tiny.marked(mark).values() if "run_stage" in words]
    assert driver_words == []
