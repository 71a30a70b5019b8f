"""The process that loads a user's code once and forks a session for each that is asked for.

Started by reward.sessions, which speaks to it on standard input: {"load", "args"}, {"fork"} with the
descriptor of the session's own line, {"reap": pid}.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from reward.worker_main import answer, limit_cpu, limit_memory, serve

_PR_SET_PDEATHSIG = 1
_LOAD_CPU_S = 120.0


def main() -> None:
    """Serve until the line closes. sys.argv: [_, root, memory_bytes]."""
    limit_memory(int(sys.argv[2]))
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 2**20, 1)
        if not data:
            return
        message = json.loads(data)
        if "fork" in message:
            _send(control, _forked(control, descriptors[0]))
        elif "reap" in message:
            _send(control, {"code": _code(message["reap"])})
        else:
            limit_cpu(_LOAD_CPU_S)
            found = answer({"call": message["load"], "args": message["args"], "cpu_s": _LOAD_CPU_S})
            # Forking goes on for as long as the run does.
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
            _send(control, {"error": found["error"]} if "error" in found else {"loaded": True})


def _forked(control: socket.socket, descriptor: int) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(descriptor)
        return {"error": f"no fork: {error.strerror}"}
    if pid == 0:
        control.close()
        _be_session(descriptor)
    # Both sides say so: whoever is first, it leads its group before anybody can kill that.
    with suppress(OSError):
        os.setpgid(pid, pid)
    os.close(descriptor)
    return {"pid": pid}


def _be_session(descriptor: int) -> None:
    """Never returns."""
    with suppress(OSError):
        os.setpgid(0, 0)
    # It must not outlive this process, nor hang where its owner was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    code = 1
    try:
        with os.fdopen(descriptor, "rb") as calls, os.fdopen(os.dup(descriptor), "wb") as answers:
            serve(calls, answers)
        code = 0
    finally:
        os._exit(code)


def _code(pid: int) -> int | None:
    """How a killed session ended, in Python's way: below 0 is a signal."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode("ascii"))
