"""A stage without progress says once where its processes stand, whatever they are at; nothing is ended."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tiny
from workbench.stuck import FOLDER, REPORT, StuckWatch, own_stacks

_STANDS = """
import sys, threading, time
from pathlib import Path
from workbench import stuck

def stand_here():
    {how}

stuck._HELD_S = 1.0
stage = Path(sys.argv[1])
(stage / "progress.json").write_text("{{}}")
with stuck.answering(stage, sys.argv[2]):
    while not (stage / "stacks" / f"{{sys.argv[2]}}.held").exists():
        time.sleep(0.05)
    print("ready", flush=True)
    stand_here()
"""
_SLEEPS = "time.sleep(60)"
# PyDLL calls without letting go of the interpreter's lock.
_HOLDS = "import ctypes; ctypes.PyDLL(None).sleep(60)"


@contextmanager
def process(stage: Path, who: str, how: str) -> Iterator[subprocess.Popen[str]]:
    stage.mkdir(exist_ok=True)
    made = subprocess.Popen(
        [sys.executable, "-c", _STANDS.format(how=how), str(stage), who],
        cwd=tiny.ROOT, env={**os.environ, "PYTHONPATH": str(tiny.ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert made.stdout is not None and made.stdout.readline() == "ready\n"
        yield made
    finally:
        made.kill()
        made.wait()


def test_every_process_says_where_it_stands_once(tmp_path: Path) -> None:
    stage, told = tmp_path / "grpo", list[str]()
    watch = StuckWatch(stage, 0.3, told.append)
    watch.look()  # there is no folder yet: nothing has begun
    with process(stage, "stage", _SLEEPS) as one, process(stage, "engine-7", _SLEEPS) as other:
        watch.look()
        assert not told
        time.sleep(0.4)
        for _ in range(3):
            watch.look()
        assert one.poll() is None and other.poll() is None
        (line,) = told
        assert line.startswith("grpo: no progress for 0 s; it goes on")
        assert f"stage (process {one.pid} on" in line and f"engine-7 (process {other.pid}" in line
        assert line.count("in stand_here") == 2 and str(stage / FOLDER / REPORT) in line
        whole = (stage / FOLDER / REPORT).read_text()
        assert (
            "thread MainThread, newest call last:" in whole
            and whole in (stage / "log.txt").read_text()
        )

        (stage / "metrics.jsonl").write_text("{}\n")  # it goes on
        watch.look()
        time.sleep(0.4)
        watch.look()
        watch.look()
        assert len(told) == 2


def test_compiled_code_that_holds_the_lock_is_seen_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Python thread of that process can run; the watcher is in another one, and another answers."""
    monkeypatch.setattr("workbench.stuck._ANSWER_S", 4.0)
    stage, told = tmp_path / "sft", list[str]()
    watch = StuckWatch(stage, 0.1, told.append)
    with process(stage, "rank-0", _SLEEPS), process(stage, "rank-1", _HOLDS):
        watch.look()
        time.sleep(2.5)
        watch.look()
        (line,) = told
        assert "rank-1 (compiled code holds its lock; newest call first)" in line
        assert line.count("in stand_here") == 2


def test_a_stage_that_writes_is_left_alone(tmp_path: Path) -> None:
    told = list[str]()
    watch = StuckWatch(tmp_path, 0.3, told.append)
    for number in range(5):
        (tmp_path / "progress.json").write_text(str(number))
        watch.look()
        time.sleep(0.1)
    assert not told and not (tmp_path / FOLDER).exists()


def test_the_asking_thread_is_not_in_its_own_answer() -> None:
    found = own_stacks("me")
    assert found.startswith(f"me (process {os.getpid()} on ") and "own_stacks" not in found
