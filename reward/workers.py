"""Third-party checkers in persistent worker processes that can be killed at a deadline.

math-verify guards itself with SIGALRM: that raises in any thread but the main one and does not
stop every hang. Here a check may be asked for from any thread (Ray's async actors included); it
runs in the main thread of a small process, which is killed at the deadline and replaced.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from reward.line import Before, CallResult, Deadline, Died, Line

ROOT = str(Path(__file__).resolve().parents[1])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from reward.worker_main import main; main()"


class _Worker:
    """One child process, owned by one thread at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, ROOT, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=own_environment(),
            bufsize=0,
            start_new_session=True,  # so that what a check has forked ends with it
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._line = Line(
            self._process.pid, self._process.stdin.fileno(), self._process.stdout.fileno()
        )

    def call(
        self, target: str, args: list[Any], timeout_s: float, before: Before | None
    ) -> CallResult:
        return self._line.call(target, args, timeout_s, before)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> int | None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code


def own_environment() -> dict[str, str]:
    """The environment variables of a worker: one thread."""
    return dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")


class _Slots:
    """Places for workers, a warm one first, to whoever has waited longest.

    A queue is not fair: a thread that puts and gets in a loop can leave another without a turn for
    as long as it goes on.
    """

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._free: list[_Worker | None] = [None] * size
        self._waiting: deque[Future[_Worker | None]] = deque()

    def take(self) -> "_Worker | None":
        """A worker, or None for a place without one yet; waits for it."""
        with self._lock:
            if self._free:
                return self._free.pop()
            turn: Future[_Worker | None] = Future()
            self._waiting.append(turn)
        try:
            return turn.result()
        except BaseException:  # KeyboardInterrupt: the turn must not be lost with this thread
            if not turn.cancel():
                self.give(turn.result())
            raise

    def give(self, worker: "_Worker | None") -> None:
        """Give a place back."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(worker)
                    return
            self._free.append(worker)

    def empty(self) -> "list[_Worker]":
        """Take the idle workers out; their places stay."""
        with self._lock:
            idle = [worker for worker in self._free if worker is not None]
            self._free = [None] * len(self._free)
            return idle


class WorkerPool:
    """At most `size` workers; a call takes a free one, or waits for it.

    memory_bytes: address-space limit of each worker.
    """

    def __init__(self, size: int, memory_bytes: int = 3 * 2**30) -> None:
        self._memory_bytes = memory_bytes
        self._slots = _Slots(size)

    def call(
        self, target: str, args: list[Any], *, timeout_s: float, before: Before | None = None
    ) -> CallResult:
        """Run "module:function" on JSON-able `args` in a worker; thread-safe.

        `timeout_s` is the worker's CPU time (in wall time up to four times that), counted from
        when the worker, warm, gets the call. A worker that overruns is
        killed (status "timeout"), one that dies is replaced (status "error").
        before: what each worker does once before its first such call.
        """
        worker = self._slots.take()
        try:
            if worker is not None and not worker.is_alive():
                _discard(worker)  # it died between two calls, so this call has lost nothing
                worker = None
            if worker is None:
                worker = _Worker(self._memory_bytes)
            return worker.call(target, args, timeout_s, before)
        except Deadline as error:
            _discard(worker)
            worker = None
            return CallResult("timeout", reason=str(error))
        except Died as error:
            code = worker.kill() if worker is not None else None
            worker = None
            # SIGXCPU: the worker's own CPU limit, its guard against an orphaned hang.
            if code == -24:
                return CallResult("timeout", reason=f"stopped after {timeout_s:g} s of CPU")
            return CallResult("error", reason=f"the checking process died ({error}; exit {code})")
        except BaseException:
            # The protocol may be mid-message (KeyboardInterrupt): this worker cannot be reused.
            _discard(worker)
            worker = None
            raise
        finally:
            self._slots.give(worker)

    def close(self) -> None:
        """Kill every idle worker. The pool stays usable."""
        for worker in self._slots.empty():
            worker.kill()


def _discard(worker: _Worker | None) -> None:
    if worker is not None:
        worker.kill()


_pools: dict[int, WorkerPool] = {}
_pools_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """This process's pool: one worker a core, at most four; a forked child gets its own."""
    with _pools_lock:
        pid = os.getpid()
        if pid not in _pools:
            _pools.clear()
            _pools[pid] = WorkerPool(max(1, min(4, len(os.sched_getaffinity(0)))))
            atexit.register(_close_at_exit, pid)
        return _pools[pid]


def _close_at_exit(pid: int) -> None:
    if os.getpid() == pid and pid in _pools:
        _pools[pid].close()
