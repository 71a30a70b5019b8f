"""A recipe whose stages take seconds, and the real command line around it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BLEND: dict[str, Any] = {
    "sources": {"math": {"type": "pretraining", "category": "math"}},
    "phases": [{"until": 1.0, "weights": {"math": 1}}],
}
MODEL = {
    "preset": "miniature",
    "overrides": {
        "pattern": "M*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 2,
        "mamba_head_dim": 16, "ssm_state_size": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16,
    },
}  # fmt: skip


def tokenizer_stage(**changes: Any) -> dict[str, Any]:
    """A vocabulary of 400 from 100 documents."""
    base = {"kind": "tokenizer", "vocab_size": 400, "sample_documents": 100, "blend": BLEND}
    return base | changes


def pretrain_stage(**changes: Any) -> dict[str, Any]:
    """8 steps of 4 rows of 64 tokens, with a checkpoint every third."""
    base = {
        "kind": "pretrain", "needs": ["tokenizer"], "total_tokens": 2048, "row_tokens": 64,
        "rows_per_step": 4, "microbatch_rows": 4, "precision": "fp32", "threads": 1,
        "checkpoint_every_steps": 3, "blend": BLEND,
    }  # fmt: skip
    return base | changes


def sft_stage(**changes: Any) -> dict[str, Any]:
    """24 sums, one a row, four rows a step."""
    world = {"source": {"type": "world", "domain": "math"}, "samples": 24}
    base = {
        "kind": "sft", "needs": ["pretrain"], "parts": {"math": world}, "row_tokens": 512,
        "rows_per_step": 4, "microbatch_rows": 4, "precision": "fp32", "threads": 1,
        "checkpoint_every_steps": 2,
    }  # fmt: skip
    return base | changes


def write_recipe(folder: Path, stages: dict[str, Any], **top: Any) -> Path:
    """A recipe file in `folder` whose runs go to `folder`/runs."""
    path = folder / "recipe.yaml"
    runs = str(folder / "runs")
    whole = {"name": "tiny", "runs_dir": runs, "model": MODEL, "stages": stages, **top}
    path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """The environment of a user's shell with the virtual environment active."""
    venv = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{venv}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    """run_stage.py in a process group of its own, as a shell starts it."""
    command = [sys.executable, "scripts/run_stage.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    whole: dict[str, Any] = {"cwd": ROOT, "env": environment(), "start_new_session": True}
    return subprocess.Popen(command, **(pipes | whole | options))


def manifest(run: Path, stage: str) -> dict[str, Any]:
    """A stage's manifest."""
    found: dict[str, Any] = json.loads((run / stage / "manifest.json").read_text())
    return found


MARK = "ANNEAL_TEST_MARK"


def marked(mark: str) -> dict[int, str]:
    """Processes that were started with MARK=mark in their environment: pid -> command line."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if words:  # a zombie has none
                    found[int(folder.name)] = words
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], bool], what: str, *, timeout_s: float = 120.0) -> None:
    """Wait for something. Raises: TimeoutError."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def steps(run: Path, stage: str) -> int:
    """Steps a stage has logged."""
    path = run / stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
