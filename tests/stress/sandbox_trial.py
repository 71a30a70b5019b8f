"""Run hostile programs in the sandbox and count what got out. Used by unit and stress tests."""

import math
import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward import check
from reward.sandbox import Limits, run_program

TIMEOUT_S = 1.0
# Beyond the limit: killing and cleaning up.
GRACE_S = 1.0


@dataclass
class Report:
    """What happened. escapes and overruns must be empty."""

    outcomes: Counter[str] = field(default_factory=Counter)
    escapes: list[str] = field(default_factory=list)
    overruns: list[str] = field(default_factory=list)
    longest_s: float = 0.0


@contextmanager
def surroundings(folder: Path, make: Callable[..., Any]) -> Iterator[tuple[Any, list[str]]]:
    """A secret, a canary folder, a listener and signal handlers; yields what was touched."""
    touched: list[str] = []
    secret = folder / "secret.txt"
    secret.write_text("STRESS_SECRET_FILE")
    canary = folder / "canary"
    canary.mkdir(mode=0o777)
    os.environ["STRESS_SECRET"] = "STRESS_SECRET_ENV"
    repo = str(Path(__file__).resolve().parents[2])
    caught = (signal.SIGUSR1, signal.SIGTERM)
    handlers = {n: signal.signal(n, lambda n, _: touched.append(f"signal {n}")) for n in caught}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    listener.accept()
                    touched.append("a connection")
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            port = listener.getsockname()[1]
            yield make(str(secret), str(canary), repo, port, os.getpid()), touched
        finally:
            done.set()
            thread.join()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            del os.environ["STRESS_SECRET"]
    if list(canary.iterdir()) or secret.read_text() != "STRESS_SECRET_FILE":
        touched.append("files outside")
    left = sandbox_processes()
    if left:
        touched.append(f"processes left: {left}")


def run_all(hostile: Sequence[Any], *, workers: int, without: Sequence[str] = ()) -> Report:
    """Run every program; spoofs as code checks, the others as programs."""
    report = Report()
    lock = threading.Lock()

    def one(program: Any) -> None:
        name = f"{program.kind}/{program.variant}"
        outcome, escaped, wall_s = _spoof(program) if program.spoof else _escape(program, without)
        with lock:
            report.outcomes[outcome] += 1
            report.longest_s = max(report.longest_s, wall_s)
            if escaped:
                report.escapes.append(f"{name}: {escaped}")
            if wall_s > TIMEOUT_S + GRACE_S:
                report.overruns.append(f"{name}: {wall_s:.2f} s")

    with ThreadPoolExecutor(workers) as executor:
        list(executor.map(one, hostile))
    return report


def _escape(program: Any, without: Sequence[str]) -> tuple[str, str, float]:
    run = run_program(program.code, limits=Limits(timeout_s=TIMEOUT_S), without=without)
    text = run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("ESCAPED")]
    escaped = lines[0] if lines else "the secret" if "STRESS_SECRET_" in text else ""
    return run.outcome, escaped, run.wall_s


def _spoof(program: Any) -> tuple[str, str, float]:
    answer = secrets.randbits(64)
    tests = [[[i], answer] for i in range(3)]
    verdict = check(
        "code",
        f"```python\n{program.code}\n```",
        {"function": "f", "tests": tests},
        timeout_s=TIMEOUT_S,
    )
    suffix = f"def check(f):\n    for i in range(3):\n        assert f(i) == {answer}\n"
    tested = check(
        "code",
        f"```python\n{program.code}\n```",
        {"function": "f", "program_suffix": suffix},
        timeout_s=TIMEOUT_S,
    )
    # A sandbox that broke says nothing about the program: it must not pass for a kept limit.
    wall_s = max(found.parts.get("wall_s", math.inf) for found in (verdict, tested))
    for found in (verdict, tested):
        if found.value not in (0.0, None):
            return "spoofed", f"{found}", wall_s
    return f"verdict {verdict.status}", "", wall_s


def sandbox_processes() -> list[int]:
    """PIDs of sandbox processes that are still there, given a second to go."""
    limit = time.monotonic() + 1.0
    while True:
        found = [pid for pid, parent in _launchers() if _is_ours(parent)]
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.05)


def _launchers() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if b"isolation.launcher" in command:
                yield int(entry.name), int(parent)


def _is_ours(parent: int) -> bool:
    """A child of this process, or an orphan (parent 1)."""
    return parent in (os.getpid(), 1)
