"""Processes with a state of their own: a user's code is loaded once, and each session is a fork of that.

A session answers calls like a worker (reward.workers), and keeps what it holds between them. What it breaks,
changes or leaves behind is its own: no other session sees it, and it ends with the session.
"""

import atexit
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from reward.line import CallResult, Deadline, Died, Line
from reward.workers import ROOT, own_environment

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from reward.session_main import main; main()"
_SPARE_S = 60.0
_LONGEST = 2**20
_FULL = (errno.EMFILE, errno.ENFILE)


class NoSession(RuntimeError):
    """A session could not be begun."""


class Nursery:
    """A process that has called `target` on `args`, which loads something, and then forks.

    memory_bytes: address space of each session. load_s: most seconds of the loading.
    """

    def __init__(self, target: str, args: list[Any], memory_bytes: int, load_s: float) -> None:
        self._first = {"load": target, "args": args}
        self._memory_bytes, self._load_s = memory_bytes, load_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def session(self) -> "Session":
        """A new one. Raises: NoSession."""
        with self._lock:
            for last in (False, True):  # one that has died meanwhile is made anew, once
                try:
                    self._begin()
                    return self._fork()
                except (OSError, EOFError) as error:
                    full = isinstance(error, OSError) and error.errno in _FULL
                    if not full:  # which says nothing of this process, whose sessions live on
                        self._end()
                    if last or (full and not _allowed_more_files()):
                        raise NoSession(f"no process for it: {error or 'it died'}") from None
        raise AssertionError

    def reap(self, pid: int) -> int | None:
        """The exit code of a session that has been killed; None where nobody knows it."""
        with self._lock:
            try:
                return int(self._ask({"reap": pid}, _SPARE_S)["code"])
            except (OSError, EOFError, KeyError):
                return None

    def close(self) -> None:
        """End it, and its sessions with it. It stays usable."""
        with self._lock:
            self._end()

    def _begin(self) -> None:
        if self._process is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, ROOT, str(self._memory_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=own_environment(),
                start_new_session=True,
            )
        self._control = ours
        loaded = self._ask(self._first, self._load_s)
        if "error" in loaded:
            self._end()
            raise NoSession(loaded["error"])

    def _fork(self) -> "Session":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            assert self._control is not None
            socket.send_fds(self._control, [b'{"fork": 1}'], [theirs.fileno()])
            answer = self._receive(_SPARE_S)
        if "error" in answer:
            ours.close()
            raise NoSession(answer["error"])
        return Session(self, int(answer["pid"]), ours)

    def _ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self._control is None:
            raise EOFError("it is not there")
        self._control.send(json.dumps(message).encode("ascii"))
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._control is not None
        self._control.settimeout(timeout_s)
        data = self._control.recv(_LONGEST)
        if not data:
            raise EOFError("it died while loading")
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _end(self) -> None:
        if self._process is not None:
            _kill(self._process.pid)
            self._process.wait()
        if self._control is not None:
            self._control.close()
        self._process = self._control = None


class Session:
    """One fork, used by one thread at a time; `close` ends it."""

    def __init__(self, nursery: Nursery, pid: int, link: socket.socket) -> None:
        self._nursery, self._link = nursery, link
        self._line = Line(pid, link.fileno(), link.fileno())
        self._open = True

    def call(self, target: str, args: list[Any], *, timeout_s: float) -> CallResult:
        """As reward.workers.WorkerPool.call. A session that overruns or dies has ended for good."""
        if not self._open:
            return CallResult("error", reason="its process has ended")
        try:
            return self._line.call(target, args, timeout_s)
        except Deadline as error:
            self.close()
            return CallResult("timeout", reason=str(error))
        except Died as error:
            code = self.close()
            if code == -signal.SIGXCPU:
                return CallResult("timeout", reason=f"stopped after {timeout_s:g} s of CPU")
            return CallResult("error", reason=f"its process died ({error}; exit {code})")
        except BaseException:
            self.close()
            raise

    def close(self) -> int | None:
        """Kill it, with what it has forked; its exit code."""
        if not self._open:
            return None
        self._open = False
        _kill(self._line.pid)
        self._link.close()
        return self._nursery.reap(self._line.pid)


def _allowed_more_files() -> bool:
    """Take the most open files that this process may have, one of which each session needs; whether
    that is more than it had."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == most:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return True


def _kill(group: int) -> None:
    if group <= 1:  # to the kernel that is a name for every process of this user
        raise ValueError(f"{group} is not a session's process group")
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


_nurseries: dict[str, Nursery] = {}
_lock = threading.Lock()


def shared_nursery(target: str, args: list[Any], memory_bytes: int, load_s: float) -> Nursery:
    """This process's nursery for what is loaded so; a forked child gets its own."""
    key = json.dumps([os.getpid(), target, args, memory_bytes])
    with _lock:
        if key not in _nurseries:
            _nurseries[key] = made = Nursery(target, args, memory_bytes, load_s)
            atexit.register(_close_at_exit, os.getpid(), made)
        return _nurseries[key]


def _close_at_exit(pid: int, nursery: Nursery) -> None:
    if os.getpid() == pid:
        nursery.close()
