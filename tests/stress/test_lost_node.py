"""Two Ray nodes on one machine, each with its own CPUs: one goes away while a stage trains on both."""

import secrets
from pathlib import Path

import pytest

from tests import tiny
from tests.ray_head import RayHead, lose

pytestmark = pytest.mark.stress
STEPS = 3000


@pytest.fixture(autouse=True)
def _one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all machines of a cluster have it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))


def losses_noted(run: Path) -> int:
    """How often workers of the stage were lost, by its manifest."""
    warnings = tiny.manifest(run, "pretrain")["outputs"].get("warnings", [])
    return sum("a worker was lost" in line for line in warnings)


def test_a_stage_goes_on_on_another_node_or_ends_in_one_line(
    tmp_path: Path, head: RayHead, mark: str
) -> None:
    """One worker fits on each node. A third node joins and one goes away: the stage continues. The third goes
    away and none comes: one line, and the same command continues in one process."""
    spread = {"workers": 2, "strategy": "fsdp", "cpus_per_worker": 1.5, "wait_s": 5}
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(
            total_tokens=STEPS * 256,
            checkpoint_every_steps=50,
            microbatch_rows=2,
            distributed=spread,
        ),
    }
    recipe = tiny.write_recipe(tmp_path, stages)
    run, words = (
        tmp_path / "runs" / "tiny",
        ("all", "--recipe", str(recipe), "--address", head.address),
    )
    second = head.join(cpus=2)
    driver = tiny.start(*words)
    tiny.wait_for_step(driver, run, "pretrain", 120)
    third = head.join(cpus=2)
    lose(second)
    tiny.wait_until(
        lambda: losses_noted(run) == 1 or driver.poll() is not None, "the loss", timeout_s=120
    )
    at = newest(run)
    assert at >= 50
    tiny.wait_until(
        lambda: newest(run) > at + 100 or driver.poll() is not None, "more", timeout_s=240
    )
    assert driver.poll() is None, driver.communicate()

    lose(third)
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 2, out + err
    (line,) = err.splitlines()
    assert "a machine was lost, and 5 s later 2 workers need 3 CPUs (1.5 each)" in line
    assert "rerun: the stage goes on from its newest checkpoint" in line
    before = lines(run)[:at]
    alone = ("workers=1", "strategy=none")
    sets = [w for one in alone for w in ("--set", f"stages.pretrain.distributed.{one}")]
    tiny.finish(*words, *sets, timeout_s=600)
    tiny.each_step_once(run, "pretrain", STEPS)
    assert lines(run)[:at] == before


def lines(run: Path) -> list[str]:
    return (run / "pretrain" / "metrics.jsonl").read_text().splitlines()


def newest(run: Path) -> int:
    """The newest step with a whole checkpoint."""
    names = (run / "pretrain" / "checkpoints").glob("step-*")
    return max((int(path.name.split("-")[1].split(".")[0]) for path in names), default=0)
