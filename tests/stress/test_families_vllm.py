"""Which hybrid families the pinned vLLM samples from on a CPU, and that its log-probabilities are the trainer's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.family_trial import CASES

pytestmark = pytest.mark.stress
# What vLLM 0.32's CPU build says of the others (docs/hybrid.md has the table).
REFUSED = {
    "bamba": "does not dispatch through the Transformers attention interface",
    "nemotron, experts": "is_act_and_mul=False is supported only for CUDA",
}


@pytest.mark.parametrize("name", CASES)
def test_a_familys_logprobs_are_the_trainers_or_vllm_refuses_it(name: str, tmp_path: Path) -> None:
    """In a process of its own, one engine at a time: 48 sampled tokens behind prompts of 10, 2 and 33; then a sync of other weights,
    which the engine proves; of experts by its probes alone."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.family_trial", name, str(tmp_path)],
        cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=tiny.PATIENCE_S,
    )  # fmt: skip
    if name in REFUSED:
        assert done.returncode != 0 and REFUSED[name] in done.stderr, done.stderr[-2000:]
        return
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens"] == 48 and found["worst"] < 1e-5
    assert found["probes"] < 1e-4 and found["unread"] == []
