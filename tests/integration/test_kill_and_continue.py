"""Runs that are killed, stopped and lose workers continue, and leave nobody behind."""

import hashlib
import json
import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.integration
NUM_STEPS = 300
LONG = {"total_tokens": NUM_STEPS * 256, "seed": 5, "checkpoint_every_steps": 7}


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks every process of the test, whoever its parent is; none may outlive it."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(tiny.MARK, name)
    yield name
    monkeypatch.delenv(tiny.MARK)
    for pid in tiny.marked(name):
        os.kill(pid, signal.SIGKILL)


def weights(run: Path, stage: str) -> str:
    return hashlib.sha256((run / stage / "model/model.safetensors").read_bytes()).hexdigest()


def finish(recipe: Path, *words: str) -> str:
    done = tiny.start("all", "--recipe", str(recipe), *words)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, out + err
    assert err == ""  # nothing of Ray's or a library's either
    return out


def each_step_once(run: Path, stage: str, count: int) -> None:
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, count + 1))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    stages = {"tokenizer": tiny.tokenizer_stage(), "a": tiny.pretrain_stage(**LONG)}
    finish(tiny.write_recipe(folder, stages), "--set", "cluster.backend=local")
    return weights(folder / "runs/tiny", "a")


def no_one_left(mark: str) -> None:
    tiny.wait_until(lambda: not tiny.marked(mark), f"left over: {tiny.marked(mark)}", timeout_s=40)


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
    out, err = driver.communicate(timeout=60)
    if end != signal.SIGKILL:
        assert (driver.returncode, err) == (1, ""), out + err
        assert "= a: stopped" in out
    assert tiny.manifest(run, "a")["status"] == "running"
    assert "> a: runs (continues where it stopped)" in finish(recipe)
    assert weights(run, "a") == uninterrupted
    each_step_once(run, "a", NUM_STEPS)
    assert tiny.manifest(run, "a")["attempts"] == 2
    assert tiny.manifest(run, "tokenizer")["attempts"] == 1
    assert not (run / "a" / "checkpoints").exists()


def test_sft_continues_from_its_checkpoint(tmp_path: Path, mark: str) -> None:
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
    finish(recipe)
    after = (run / "sft" / "metrics.jsonl").read_text().splitlines()
    kept = len(before) - 3  # a checkpoint every second step, and a line that may be torn
    assert after[:kept] == before[:kept]
    each_step_once(run, "sft", 60)
    assert tiny.manifest(run, "sft")["attempts"] == 3
