"""Runs without Ray that are killed and stopped continue; with Ray: test_kill_under_ray.py."""

import hashlib
import os
import random
import signal
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.integration
NUM_STEPS = 300
LONG = {"total_tokens": NUM_STEPS * 256, "seed": 5, "checkpoint_every_steps": 7}


def weights(run: Path, stage: str) -> str:
    return hashlib.sha256((run / stage / "model/model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    stages = {"tokenizer": tiny.tokenizer_stage(), "a": tiny.pretrain_stage(**LONG)}
    recipe = tiny.write_recipe(folder, stages)
    tiny.finish("all", "--recipe", str(recipe), "--set", "cluster.backend=local")
    return weights(folder / "runs/tiny", "a")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_pretraining_that_is_ended_at_any_step_ends_equal_to_the_bit(
    tmp_path: Path, uninterrupted: str, end: signal.Signals
) -> None:
    stages = {"tokenizer": tiny.tokenizer_stage(), "a": tiny.pretrain_stage(**LONG)}
    recipe = tiny.write_recipe(tmp_path, stages, cluster={"backend": "local"})
    run = tmp_path / "runs" / "tiny"
    count = random.randint(1, 200)
    driver = tiny.start("all", "--recipe", str(recipe))
    tiny.wait_until(
        lambda: tiny.steps(run, "a") >= count or driver.poll() is not None, f"step {count}"
    )
    assert driver.poll() is None, driver.communicate()
    os.killpg(driver.pid, end)
    out, err = driver.communicate(timeout=tiny.PATIENCE_S)
    if end != signal.SIGKILL:
        assert (driver.returncode, err) == (1, ""), out + err
        assert "= a: stopped" in out
    assert tiny.manifest(run, "a")["status"] == "running"
    assert "> a: runs (continues where it stopped)" in tiny.finish("all", "--recipe", str(recipe))
    assert weights(run, "a") == uninterrupted
    tiny.each_step_once(run, "a", NUM_STEPS)
    assert tiny.manifest(run, "a")["attempts"] == 2
    assert tiny.manifest(run, "tokenizer")["attempts"] == 1
    assert not (run / "a" / "checkpoints").exists()


def test_sft_continues_from_its_checkpoint(tmp_path: Path) -> None:
    sft = tiny.sft_stage(needs=["a"], epochs=10)
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "a": tiny.pretrain_stage(),
        "sft": sft,
    }
    recipe = tiny.write_recipe(tmp_path, stages, cluster={"backend": "local"})
    run = tmp_path / "runs" / "tiny"
    for count in (random.randint(3, 20), random.randint(25, 50)):
        driver = tiny.start("all", "--recipe", str(recipe))
        tiny.wait_until(
            lambda: tiny.steps(run, "sft") >= count or driver.poll() is not None,  # noqa: B023
            f"step {count}",
        )
        assert driver.poll() is None, driver.communicate()
        driver.kill()
        driver.wait()
    before = (run / "sft" / "metrics.jsonl").read_text().splitlines()
    tiny.finish("all", "--recipe", str(recipe))
    after = (run / "sft" / "metrics.jsonl").read_text().splitlines()
    kept = len(before) - 3  # a checkpoint every second step, and a line that may be torn
    assert after[:kept] == before[:kept]
    tiny.each_step_once(run, "sft", 60)
    assert tiny.manifest(run, "sft")["attempts"] == 3
