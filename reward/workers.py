"""Third-party checkers in persistent worker processes that can be killed at a deadline.

math-verify guards itself with SIGALRM: that raises in any thread but the main one and does not
stop every hang. Here a check may be asked for from any thread (Ray's async actors included); it
runs in the main thread of a small process, which is killed at the deadline and replaced.
"""

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_ROOT = str(Path(__file__).resolve().parents[1])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from reward.worker_main import main; main()"
# Importing sympy or nltk on a busy machine; not part of any check's own time.
_LOAD_LIMIT_S = 120.0
_HEADER = struct.Struct(">I")
_MAX_FRAME_BYTES = 64 * 2**20


@dataclass(frozen=True)
class CallResult:
    """status "ok": `value` is what the target returned; else `reason` says why there is none."""

    status: Literal["ok", "timeout", "error"]
    value: Any = None
    reason: str = ""


class _Deadline(Exception):
    pass


class _Budget:
    """Time for one exchange: `limit_s` of the worker's CPU, on a starved machine up to 4x in wall.

    Wall time alone would call an innocent check hung whenever training takes the cores.
    """

    _STARVED_FACTOR = 4.0

    def __init__(self, pid: int, limit_s: float) -> None:
        self._pid = pid
        self._limit_s = limit_s
        self._started = time.monotonic()
        self._cpu_at_start = _cpu_s(pid)

    def left(self) -> float:
        """Seconds to wait before asking again; raises _Deadline when the budget is spent."""
        wall = time.monotonic() - self._started
        if wall < self._limit_s:
            return self._limit_s - wall
        used = _cpu_s(self._pid) - self._cpu_at_start
        if used >= self._limit_s or wall >= self._STARVED_FACTOR * self._limit_s:
            raise _Deadline
        return max(self._limit_s - used, 0.01)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process, in ticks of 10 ms; 0.0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Died(Exception):
    pass


class _Worker:
    """One child process, owned by one thread at a time."""

    def __init__(self, memory_bytes: int) -> None:
        env = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, _ROOT, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            bufsize=0,
            start_new_session=True,  # so that what a check has forked ends with it
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._loaded: set[str] = set()

    def call(self, target: str, args: list[Any], timeout_s: float) -> CallResult:
        if target not in self._loaded:
            loaded = self._exchange({"load": target}, _LOAD_LIMIT_S)
            if "error" in loaded:
                return CallResult("error", reason=loaded["error"])
            self._loaded.add(target)
        request = {"call": target, "args": args, "cpu_s": timeout_s}
        answer = self._exchange(request, timeout_s)
        if "error" in answer:
            return CallResult("error", reason=answer["error"])
        return CallResult("ok", value=answer["value"])

    def _exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        budget = _Budget(self._process.pid, timeout_s)
        payload = json.dumps(message).encode("ascii")
        self._write(_HEADER.pack(len(payload)) + payload, budget)
        (size,) = _HEADER.unpack(self._read(_HEADER.size, budget))
        if size > _MAX_FRAME_BYTES:
            raise _Died(f"answer of {size} bytes")
        answer: dict[str, Any] = json.loads(self._read(size, budget))
        return answer

    def _write(self, data: bytes, budget: _Budget) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._in, select.POLLOUT, budget)
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise _Died("broken pipe") from error

    def _read(self, size: int, budget: _Budget) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._out, select.POLLIN, budget)
            try:
                chunk = os.read(self._out, size - len(data))
            except BlockingIOError:
                continue
            if not chunk:
                raise _Died("end of file")
            data += chunk
        return bytes(data)

    @staticmethod
    def _wait(fd: int, event: int, budget: _Budget) -> None:
        # poll, not select: a process with many open files has descriptors above 1,024.
        poller = select.poll()
        poller.register(fd, event)
        while not poller.poll(budget.left() * 1000):
            pass

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

    def call(self, target: str, args: list[Any], *, timeout_s: float) -> CallResult:
        """Run "module:function" on JSON-able `args` in a worker; thread-safe.

        `timeout_s` is the worker's CPU time (in wall time up to four times that), counted from
        when the worker, warm, gets the call. A worker that overruns is
        killed (status "timeout"), one that dies is replaced (status "error").
        """
        worker = self._slots.take()
        try:
            if worker is not None and not worker.is_alive():
                _discard(worker)  # it died between two calls, so this call has lost nothing
                worker = None
            if worker is None:
                worker = _Worker(self._memory_bytes)
            return worker.call(target, args, timeout_s)
        except _Deadline:
            _discard(worker)
            worker = None
            return CallResult("timeout", reason=f"stopped after {timeout_s:g} s")
        except _Died as error:
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
