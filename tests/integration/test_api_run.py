"""A whole run from Python, in a process of its own: as a notebook would."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.judge_server import Said, judge_server

pytestmark = pytest.mark.integration
_SCRIPT = """
import sys
import anneal

place, address = sys.argv[1:]
stage = {"kind": "evals", "benchmarks": ["mini-math"], "limit": 2, "models": ["m"]}
recipe = {"name": "tiny", "runs_dir": place, "cluster": {"backend": "local"}}
recipe |= {"models": {"m": {"endpoint": address}}, "stages": {"evals": stage}}
print("folder:", anneal.run(recipe))
"""


def test_a_run_from_python_ends_with_its_folder(tmp_path: Path) -> None:
    with judge_server(lambda asked: Said("4")) as server:
        words = [sys.executable, "-c", _SCRIPT, str(tmp_path), server.address]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"folder: {tmp_path / 'tiny'}" in done.stdout
    assert (tmp_path / "tiny/evals/m/mini-math/results.json").is_file()
    assert (tmp_path / "tiny/report.html").is_file()
