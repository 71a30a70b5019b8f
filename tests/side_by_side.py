"""Test files in several pytest processes, two at a time: what `make unit` and `make integration` run.

    python -m tests.side_by_side --groups 4 tests/unit/model/test_cost.py ...    # four processes in all
    python -m tests.side_by_side --each tests/integration/test_ray_job.py ...    # one process a file

Files that use Ray run one after another: each starts a Ray of its own that counts on all cores. The others
fill the second place. What a process printed is shown when it ends, with its wall and CPU time. All are run,
whatever fails: who mends a fault wants to know of the others too. Exit codes: 0 all passed, 1 not.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_RAY = re.compile(r"\bray\b|\bhead\b")
_NOT_HERE = "not stress and not gpu"
_NO_TESTS = 5  # pytest's exit code where all tests of a file are left out


@dataclass(frozen=True)
class Job:
    """Test files for one process. alone: no other such job may run beside it."""

    files: tuple[str, ...]
    alone: bool = False

    @property
    def name(self) -> str:
        """The file, or how many there are."""
        return self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"


@dataclass(frozen=True)
class Ended:
    """How a process ended. cpu_s: its own and its children's."""

    job: Job
    code: int
    wall_s: float
    cpu_s: float
    printed: str

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return self.code in (0, _NO_TESTS)


def each(files: Sequence[str]) -> list[Job]:
    """A job a file; those that name Ray are alone."""
    return [Job((file,), alone=bool(_RAY.search(Path(file).read_text()))) for file in files]


def groups(files: Sequence[str], count: int) -> list[Job]:
    """The files dealt out in turn."""
    dealt = (tuple(files[first::count]) for first in range(count))
    return [Job(own) for own in dealt if own]


class Queue:
    """Jobs for two places: the first takes those that must be alone, then both take the others."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._alone = deque(job for job in jobs if job.alone)
        self._others = deque(job for job in jobs if not job.alone)
        self._lock = threading.Lock()

    def take(self, place: int) -> Job | None:
        """The next job for a place; None where there is none."""
        with self._lock:
            if place == 0 and self._alone:
                return self._alone.popleft()
            return self._others.popleft() if self._others else None


def run(job: Job) -> Ended:
    """Run the files of a job in a process of its own."""
    command = [sys.executable, "-m", "pytest", *job.files, "-m", _NOT_HERE]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        cpu_s = used.ru_utime + used.ru_stime
        return Ended(job, process.returncode, time.monotonic() - began, cpu_s, out.read())


def run_all(jobs: Sequence[Job]) -> list[Ended]:
    """Run jobs in two places, and say of each how it ended."""
    queue, ended = Queue(jobs), list[Ended]()

    def place(number: int) -> None:
        while (job := queue.take(number)) is not None:
            found = run(job)
            ended.append(found)
            sys.stdout.write(
                f"{found.printed}{job.name}: {'passed' if found.passed else 'FAILED'} in "
                f"{found.wall_s:.0f} s, {found.cpu_s:.0f} s of CPU\n\n"
            )
            sys.stdout.flush()

    threads = [threading.Thread(target=place, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def main() -> int:
    """Read the command line, run, and say what failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--each", action="store_true", help="one process a file")
    how.add_argument("--groups", type=int, metavar="N", help="N processes in all")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    jobs = each(args.files) if args.each else groups(args.files, args.groups)
    ended = run_all(jobs)
    failed = [found.job.name for found in ended if not found.passed]
    sys.stdout.write(
        f"{len(ended)} processes, {sum(found.cpu_s for found in ended):.0f} s of CPU; "
        f"failed: {', '.join(failed) or 'none'}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
