"""The light set-up: a fresh environment made from its requirements file runs a sweep over endpoints."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from tests.judge_server import Said, judge_server

pytestmark = pytest.mark.stress
_HEAVY = ("torch", "vllm", "ray", "transformers", "trl", "deepspeed", "datasets")
_BENCHMARKS = "mini-math,mini-tool_calling,mini-conversation,humaneval,ifbench,bfcl-v3-simple,bfcl-v3-multi-turn"


def test_a_fresh_environment_without_torch_sweeps(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run(
        [*install, "-r", "requirements/evals-only.txt", "setuptools==80.9.0"], check=True
    )
    subprocess.run([*install, "--no-build-isolation", "-e", "."], check=True)
    found = f"import importlib.util as u; print([n for n in {_HEAVY} if u.find_spec(n)])"
    assert subprocess.check_output([python, "-c", found], text=True).strip() == "[]"
    with judge_server(lambda asked: Said("The answer is \\boxed{4}.")) as server:
        command = [
            python, "scripts/sweep.py", "--models", f"a={server.address},b={server.address}", "--limit", "2",
            "--benchmarks", _BENCHMARKS, "--run", "light", "--set", f"runs_dir={tmp_path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.glob("light/evals/*/*/results.json")]
    assert len(results) == 2 * len(_BENCHMARKS.split(","))
    assert [r["benchmark"] for r in results if r["failed"]] == []
