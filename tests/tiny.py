"""A recipe whose stages take seconds, and the real command line around it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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


# Sizes that vLLM's CPU attention takes too.
ENGINE_MODEL = {"preset": "miniature", "overrides": {"pattern": "M*-", "hidden_size": 64}}


def grpo_stage(folder: Path, **changes: Any) -> dict[str, Any]:
    """8 steps of 2 prompts x 4 replies of 24 tokens, a checkpoint every second; 4 held out.

    A reply is right where it has an "e": what a model of a few steps' training does now and then.
    """
    rows = [
        {
            "id": f"q{n}", "domain": "letters",
            "messages": [{"role": "user", "content": f"Write {n} words."}],
            "check": {"kind": "contains", "reference": ["e"], "options": {}},
        }
        for n in range(32)
    ]  # fmt: skip
    sources = {}
    for name, part in (("prompts", rows[:16]), ("held_out", rows[16:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        sources[name] = {"type": "jsonl", "path": str(path), "form": "conversation"}
    base = {
        "kind": "grpo", "needs": ["pretrain"], **sources,
        "num_prompts": 16, "num_held_out": 4, "num_steps": 8, "prompts_per_step": 2,
        "group_size": 4, "max_tokens": 24, "thinking": False, "threads": 1, "lr": 1e-3,
        "checkpoint_every_steps": 2,
        "engine": {"max_model_len": 256, "max_num_seqs": 16, "kv_cache_mb": 64},
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
    process = subprocess.Popen(command, **(pipes | whole | options))
    _SESSIONS.add(process.pid)
    return process


def manifest(run: Path, stage: str) -> dict[str, Any]:
    """A stage's manifest."""
    found: dict[str, Any] = json.loads((run / stage / "manifest.json").read_text())
    return found


MARK = "ANNEAL_TEST_MARK"
_SESSIONS: set[int] = set()
"""Sessions that `start` began; processes stay in them when their parent dies."""


def marked(mark: str) -> dict[int, str]:
    """Processes with MARK=mark in their environment, or begun by `start`: pid -> command line.

    Some of Ray's processes overwrite their environment with a title.
    """
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            environment = (folder / "environ").read_bytes().split(b"\0")
            if session in _SESSIONS or f"{MARK}={mark}".encode() in environment:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if words:  # a zombie has none
                    found[int(folder.name)] = words
        except OSError:
            continue
    return found


def end_marked(mark: str) -> None:
    """`kill -9` of every process with this mark."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


PATIENCE_S = 1200.0
"""After which a test that waits takes it for a hang. A loaded machine makes seconds into minutes."""


def wait_until(holds: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something. Raises: TimeoutError."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


# Where Ray's head is killed, these two wait a minute for it (Ray 2.60), and then they end.
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def no_one_left(mark: str, *, but_agents: bool = False) -> set[int]:
    """Wait until no process with this mark is left, but for Ray's agents; their pids are returned.

    Raises: TimeoutError.
    """
    start = time.monotonic()
    while True:
        left = marked(mark)
        agents = {pid for pid, words in left.items() if but_agents and words.startswith(_AGENTS)}
        if set(left) == agents:
            print(f"nobody left after {time.monotonic() - start:.1f} s", flush=True)
            return agents
        if time.monotonic() > start + PATIENCE_S:
            raise TimeoutError(f"left over: {left}")
        time.sleep(0.2)


def finish(*words: str, timeout_s: float = PATIENCE_S, **options: Any) -> str:
    """Run the command to its end, which must be a good one without a line on stderr."""
    done = start(*words, **options)
    out, err = done.communicate(timeout=timeout_s)
    assert (done.returncode, err) == (0, ""), out + err
    return out


def each_step_once(run: Path, stage: str, count: int) -> None:
    """Whether metrics.jsonl has every step once, in order."""
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, count + 1))


def kill_worker(mark: str, name: str) -> None:
    """`kill -9` of the Ray worker that now does `name` (its title says so)."""
    found = [pid for pid, words in marked(mark).items() if words.startswith(name)]
    assert len(found) == 1, marked(mark)
    os.kill(found[0], signal.SIGKILL)


def wait_for_step(driver: "subprocess.Popen[str]", run: Path, stage: str, step: int) -> None:
    """Wait until a stage has logged a step. The driver must be alive then."""
    wait_until(lambda: steps(run, stage) >= step or driver.poll() is not None, f"{stage} {step}")
    assert driver.poll() is None, driver.communicate()


def steps(run: Path, stage: str) -> int:
    """Steps a stage has logged."""
    path = run / stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
