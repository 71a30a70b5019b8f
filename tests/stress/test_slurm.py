"""The Slurm script with Slurm's two commands as shell: two Ray nodes on this machine, told that time is up."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.ray_head import free_port

pytestmark = pytest.mark.stress
STEPS = 2000
# What `srun OPTIONS ray start ...` and `scontrol` come to on one machine.
SRUN = """#!/bin/bash
while [ "$1" != ray ]; do shift; done
exec "$@" --object-store-memory=134217728 --dashboard-agent-listen-port=0 --temp-dir="$ANNEAL_TEST_RAY"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> "$ANNEAL_TEST_RAY/requeued"; else printf 'localhost\\n127.0.0.1\\n'; fi
"""


@pytest.fixture
def slurm(tmp_path: Path, mark: str) -> Iterator[dict[str, str]]:
    """The environment of a job on two machines with a CPU each."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    ray = Path("/tmp") / f"slurm-{os.getpid()}"  # socket paths are limited to 107 characters
    ray.mkdir()
    yield {
        **tiny.environment(), "PATH": f"{tmp_path}{os.pathsep}{tiny.environment()['PATH']}",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77", "SLURM_CPUS_ON_NODE": "1",
        "SLURM_GPUS_ON_NODE": "0", "RAY_PORT": str(free_port()), "ANNEAL_TEST_RAY": str(ray),
        "HOME": str(ray),
    }  # fmt: skip
    tiny.end_marked(mark)
    shutil.rmtree(ray, ignore_errors=True)


def test_a_job_whose_time_is_up_saves_is_queued_again_and_continues(
    tmp_path: Path, slurm: dict[str, str], mark: str
) -> None:
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(
            total_tokens=STEPS * 256, checkpoint_every_steps=100, microbatch_rows=2,
            distributed={"workers": 2, "strategy": "fsdp"},
        ),
    }  # fmt: skip
    recipe, run = tiny.write_recipe(tmp_path, stages), tmp_path / "runs" / "tiny"
    words = ["bash", "docs/examples/slurm.sh", "all", "--recipe", str(recipe)]
    log = (tmp_path / "out.txt").open("w")
    job = subprocess.Popen(words, cwd=tiny.ROOT, env=slurm, stdout=log, stderr=log)
    tiny.wait_until(
        lambda: tiny.steps(run, "pretrain") >= 30 or job.poll() is not None, "30", timeout_s=300
    )
    assert job.poll() is None, (tmp_path / "out.txt").read_text()
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 1, (tmp_path / "out.txt").read_text()
    assert (Path(slurm["ANNEAL_TEST_RAY"]) / "requeued").read_text() == "77\n"
    assert "stages save their state" in (tmp_path / "out.txt").read_text()
    assert tiny.steps(run, "pretrain") < STEPS
    tiny.no_one_left(mark, but_agents=True)
    again = slurm | {"RAY_PORT": str(free_port())}
    done = subprocess.run(words, cwd=tiny.ROOT, env=again, stdout=log, stderr=log, timeout=600)
    assert done.returncode == 0, (tmp_path / "out.txt").read_text()
    tiny.each_step_once(run, "pretrain", STEPS)
    assert tiny.manifest(run, "pretrain")["attempts"] == 2
