"""`kill -9` of the driver, Ctrl-C, and `kill -9` of an engine in GRPO, in a real Ray with a real vLLM.

The same command continues each time, nothing is left behind, and every step is logged once.
tests/stress/test_kills_under_ray.py does it at more moments, and through `ray job submit`.
"""

import os
import signal
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.integration
GRPO_STEPS = 12


def kept(run: Path, stage: str, count: int) -> list[str]:
    return (run / stage / "metrics.jsonl").read_text().splitlines()[:count]


def test_a_run_survives_the_death_of_its_driver_ctrl_c_and_the_death_of_its_engine(
    tmp_path: Path, mark: str
) -> None:
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(),
        "grpo": tiny.grpo_stage(tmp_path, num_steps=GRPO_STEPS),
    }
    recipe = tiny.write_recipe(tmp_path, stages, model=tiny.ENGINE_MODEL)
    run = tmp_path / "runs" / "tiny"

    # The driver, while rollouts and updates take turns: Ray, the worker and the engine go with it.
    driver = tiny.start("all", "--recipe", str(recipe))
    tiny.wait_for_step(driver, run, "grpo", 3)
    driver.kill()
    driver.wait()
    agents = tiny.no_one_left(mark, but_agents=True)
    before = kept(run, "grpo", 2)

    # Ctrl-C, as a terminal sends it: to the whole foreground group. The step at work is saved.
    driver = tiny.start("all", "--recipe", str(recipe))
    tiny.wait_for_step(driver, run, "grpo", 4)
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=tiny.PATIENCE_S)
    assert (driver.returncode, err) == (1, ""), out + err
    assert "stopping: stages save their state" in out and "= grpo: stopped after" in out
    stopped_at = tiny.steps(run, "grpo")
    agents |= tiny.no_one_left(mark, but_agents=True)

    # The engine: it is made again, and the stage does not notice.
    driver = tiny.start("all", "--recipe", str(recipe))
    tiny.wait_for_step(driver, run, "grpo", stopped_at + 2)
    tiny.kill_worker(mark, "ray::EngineActor")
    out, err = driver.communicate(timeout=tiny.PATIENCE_S)
    assert (driver.returncode, err) == (0, ""), out + err
    assert "- pretrain: skipped" in out and "> grpo: runs (continues where it stopped)" in out
    tiny.each_step_once(run, "grpo", GRPO_STEPS)
    assert kept(run, "grpo", 2) == before
    attempts = {name: tiny.manifest(run, name)["attempts"] for name in stages}
    assert attempts == {"tokenizer": 1, "pretrain": 1, "grpo": 3}
    (held_out,) = tiny.manifest(run, "grpo")["outputs"]["differences"]
    assert (held_out["difference"]["n"], held_out["failed"]) == (4, 0)
    tiny.no_one_left(mark)
    assert not agents & set(tiny.marked(mark))
