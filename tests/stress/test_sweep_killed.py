"""A sweep on a real engine that is killed, and one with the same seed that is not: the same samples."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import PATIENCE_S, ROOT, environment, tokenizer_stage, wait_until, write_recipe
from workbench.rundir import read_json_lines

pytestmark = pytest.mark.stress
BENCHMARKS = ("mini-math", "mini-science")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["What is the answer? A line\nof text </think>\n"] * 3, 300, path)
    config = build_config(
        "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=1024
    )
    load_model(config, seed=0).save_pretrained(path)
    return path


def _start(folder: Path, checkpoint: Path, run: str) -> subprocess.Popen[str]:
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        write_recipe(folder, {"tokenizer": tokenizer_stage()}, cluster={"backend": "local"})
    command = [
        sys.executable, "scripts/sweep.py", "--recipe", str(recipe), "--models", str(checkpoint),
        "--benchmarks", ",".join(BENCHMARKS), "--samples", "2", "--limit", "24", "--run", run,
        "--set", "evals.temperature=1.0", "--set", "evals.max_tokens=80",
        "--set", "evals.engine.max_num_seqs=4",
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _files(folder: Path, checkpoint: Path, run: str) -> list[Path]:
    root = folder / "runs" / run / "evals" / checkpoint.name
    return [root / name / "samples.jsonl" for name in BENCHMARKS]


def _rows(files: list[Path]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for path in files for row in read_json_lines(path)}


def test_a_killed_sweep_continues_with_the_scores_of_one_that_was_not(
    tmp_path: Path, checkpoint: Path
) -> None:
    whole = _start(tmp_path, checkpoint, "whole")
    out, _ = whole.communicate(timeout=PATIENCE_S)
    assert whole.returncode == 0, out
    expected = _rows(_files(tmp_path, checkpoint, "whole"))
    assert len(expected) == 2 * 2 * 24

    killed = _start(tmp_path, checkpoint, "killed")
    files = _files(tmp_path, checkpoint, "killed")
    wait_until(lambda: len(_rows(files)) >= 20, "twenty samples")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = _rows(files)
    assert 20 <= len(kept) < len(expected)
    assert not any((path.parent / "results.json").exists() for path in files)

    again = _start(tmp_path, checkpoint, "killed")
    out, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, out
    found = _rows(files)
    assert found == expected
    assert {key: found[key] for key in kept} == kept
    assert f"{len(kept)} from earlier runs" in out  # taken over, and not asked for again
    for name in BENCHMARKS:
        first, second = (
            json.loads(
                (
                    tmp_path / "runs" / run / "evals" / checkpoint.name / name / "results.json"
                ).read_text()
            )
            for run in ("whole", "killed")
        )
        assert first["metrics"] == second["metrics"]
