"""The loop inside a checking process: read a call, run it, answer. Started by reward.workers."""

import importlib
import json
import math
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

from workbench.errors import one_line

_HEADER = struct.Struct(">I")
_LOAD_CPU_S = 120.0


def main() -> None:
    """Serve calls from standard input until it closes. sys.argv: [_, root, memory_bytes]."""
    limit_memory(int(sys.argv[2]))
    # Checkers print; the answers need a channel of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(os.fdopen(os.dup(0), "rb"), answers)


def limit_memory(memory_bytes: int) -> None:
    """The address space of this process and of what it forks; no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer one call after the other until no more can come."""
    while True:
        header = calls.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        (size,) = _HEADER.unpack(header)
        _send(answers, answer(json.loads(calls.read(size))))


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """{"loaded"}, {"value"} or {"error"} for {"load": target} or {"call": target, "args", "cpu_s"}."""
    try:
        if "load" in message:
            limit_cpu(_LOAD_CPU_S)
            _resolve(message["load"])
            return {"loaded": True}
        limit_cpu(message["cpu_s"])
        return {"value": _resolve(message["call"])(*message["args"])}
    except MemoryError:
        return {"error": "the check ran out of memory"}
    except Exception as error:  # noqa: BLE001 - the caller turns it into a status
        return {"error": one_line(error)}


def limit_cpu(cpu_s: float) -> None:
    """Let the kernel end a hang that outlives the parent, even inside one long C call."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + cpu_s) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode("ascii")
    answers.write(_HEADER.pack(len(payload)) + payload)
    answers.flush()
