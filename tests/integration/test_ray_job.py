"""`ray job submit` against `ray start --head`: a run is made, stopped, continued, and then skipped."""

import re
from pathlib import Path

import pytest

from tests import tiny
from tests.ray_head import RayHead

pytestmark = pytest.mark.integration
NUM_STEPS = 2000


def test_a_submitted_job_is_stopped_continues_and_is_skipped(
    tmp_path: Path, head: RayHead, mark: str
) -> None:
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(total_tokens=NUM_STEPS * 256, checkpoint_every_steps=20),
    }
    recipe = str(tiny.write_recipe(tmp_path, stages))
    # Relative: in the copy that Ray makes of the folder it means the home of the head's node.
    words = ("all", "--recipe", recipe, "--set", "runs_dir=runs")
    run = head.folder / "anneal" / "runs" / "tiny"
    name = re.search(r"raysubmit_\w+", head.submit(*words, wait=False))
    assert name is not None
    tiny.wait_until(lambda: tiny.steps(run, "pretrain") >= 50, "step 50")
    head.job("stop", name[0])
    assert "was stopped" in head.job("status", name[0], ok=False)
    before = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()[:40]
    assert tiny.steps(run, "pretrain") < NUM_STEPS

    out = head.submit(*words)
    assert f"the run is kept in {run}" in out
    assert "- tokenizer: skipped" in out
    assert "> pretrain: runs (continues where it stopped)" in out
    tiny.each_step_once(run, "pretrain", NUM_STEPS)
    assert (run / "pretrain" / "metrics.jsonl").read_text().splitlines()[:40] == before
    assert tiny.manifest(run, "pretrain")["attempts"] == 2
    assert (run / "report.html").is_file()

    out = head.submit(*words)
    assert "- tokenizer: skipped" in out and "- pretrain: skipped" in out
    assert tiny.manifest(run, "pretrain")["attempts"] == 2
    assert not [line for line in tiny.marked(mark).values() if "run_stage" in line]
