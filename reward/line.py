"""Calls to another process: frames of JSON there and back, within a budget of time."""

import json
import os
import select
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_HEADER = struct.Struct(">I")
_MAX_FRAME_BYTES = 64 * 2**20
# Importing sympy or nltk on a busy machine; not part of any check's own time.
_LOAD_LIMIT_S = 120.0


@dataclass(frozen=True)
class CallResult:
    """status "ok": `value` is what the target returned; else `reason` says why there is none."""

    status: Literal["ok", "timeout", "error"]
    value: Any = None
    reason: str = ""


@dataclass(frozen=True)
class Before:
    """What a process does once before a call of it, in time of its own: an import that takes long, say. Its
    value is not kept."""

    target: str
    args: list[Any]
    limit_s: float

    @property
    def key(self) -> str:
        """Tells it from others."""
        return json.dumps([self.target, self.args])


class Deadline(Exception):
    """The budget of a call is spent. limit_s: how much it was."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(f"stopped after {limit_s:g} s")


class Died(Exception):
    """The process is gone, or says what nobody can read."""


class Line:
    """The line to one process, which one thread uses at a time."""

    def __init__(self, pid: int, write_fd: int, read_fd: int) -> None:
        self.pid, self._in, self._out = pid, write_fd, read_fd
        os.set_blocking(write_fd, False)
        os.set_blocking(read_fd, False)
        self._loaded: set[str] = set()

    def call(
        self, target: str, args: list[Any], timeout_s: float, before: "Before | None" = None
    ) -> CallResult:
        """Run "module:function" there. Raises: Deadline, Died."""
        if target not in self._loaded:
            loaded = self.exchange({"load": target}, _LOAD_LIMIT_S)
            if "error" in loaded:
                return CallResult("error", reason=loaded["error"])
            self._loaded.add(target)
        if before is not None and before.key not in self._loaded:
            made = self._called(before.target, before.args, before.limit_s)
            if made.status != "ok":
                return made
            self._loaded.add(before.key)
        return self._called(target, args, timeout_s)

    def _called(self, target: str, args: list[Any], timeout_s: float) -> CallResult:
        request = {"call": target, "args": args, "cpu_s": timeout_s}
        answer = self.exchange(request, timeout_s)
        if "error" in answer:
            return CallResult("error", reason=answer["error"])
        return CallResult("ok", value=answer["value"])

    def exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One frame there, one back. Raises: Deadline, Died."""
        budget = _Budget(self.pid, timeout_s)
        payload = json.dumps(message).encode("ascii")
        self._write(_HEADER.pack(len(payload)) + payload, budget)
        (size,) = _HEADER.unpack(self._read(_HEADER.size, budget))
        if size > _MAX_FRAME_BYTES:
            raise Died(f"answer of {size} bytes")
        answer: dict[str, Any] = json.loads(self._read(size, budget))
        return answer

    def _write(self, data: bytes, budget: "_Budget") -> None:
        view = memoryview(data)
        while view:
            self._wait(self._in, select.POLLOUT, budget)
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError) as error:
                raise Died("broken pipe") from error

    def _read(self, size: int, budget: "_Budget") -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._out, select.POLLIN, budget)
            try:
                chunk = os.read(self._out, size - len(data))
            except BlockingIOError:
                continue
            except ConnectionResetError as error:
                raise Died("end of file") from error
            if not chunk:
                raise Died("end of file")
            data += chunk
        return bytes(data)

    @staticmethod
    def _wait(fd: int, event: int, budget: "_Budget") -> None:
        # poll, not select: a process with many open files has descriptors above 1,024.
        poller = select.poll()
        poller.register(fd, event)
        while not poller.poll(budget.left() * 1000):
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
        """Seconds to wait before asking again; raises Deadline when the budget is spent."""
        wall = time.monotonic() - self._started
        if wall < self._limit_s:
            return self._limit_s - wall
        used = _cpu_s(self._pid) - self._cpu_at_start
        if used >= self._limit_s or wall >= self._STARVED_FACTOR * self._limit_s:
            raise Deadline(self._limit_s)
        return max(self._limit_s - used, 0.01)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process, in ticks of 10 ms; 0.0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
