"""Closes the sandbox around a program and reports how it ended. Started by reward.sandbox.

Three processes: the launcher (this), the keeper (PID 1 of the new PID namespace; with its end
the kernel kills everything in it) and the program. The program says on the status pipe that its
sandbox is closed, or why it could not be, and closes the pipe before any of the code runs: from
then on only the keeper can write there.
"""

import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from . import kernel, landlock, namespaces, seccomp, server

# The keeper ends itself this long after the time limit, should its parent be gone. Its clock begins before the
# program's, which waits for the sandbox to be closed.
_SELF_DESTRUCT_S = 5.0
# Uids for privileged sandboxes: one each, so that process limits do not mix. Beyond real users.
_FIRST_UID = 1_000_000_000
_MAX_FD = 2**20


def main() -> None:
    """sys.argv: [_, config_fd]; the config names the other descriptors (reward/sandbox.py)."""
    with os.fdopen(int(sys.argv[1]), "rb") as stream:
        config: dict[str, Any] = json.load(stream)
    layers: list[str] = []
    try:
        method = None if "namespaces" in config["without"] else namespaces.enter()
        keeper = os.fork()
        if keeper == 0:
            _keep(config, method, layers)
        os.waitpid(keeper, 0)
    finally:
        os._exit(0)


def _keep(config: dict[str, Any], method: str | None, layers: list[str]) -> None:
    """Finish the sandbox, start the program in it, report its end. Never returns."""
    status = config["status_fd"]
    try:
        os.setsid() if method else None
        _close_world(config, method, layers)
        missing = _missing(layers)
        if missing and not config["allow_weak"]:
            _tell(status, {"refused": missing, "layers": layers})
            os._exit(0)
        program = os.fork()
        if program == 0:
            _become_program(config, method, layers)
        _watch(program, status, config["limits"]["timeout_s"])
    except BaseException as error:  # noqa: BLE001 - told to the parent; nothing else can be done
        _tell(status, {"broken": f"{type(error).__name__}: {error}", "layers": layers})
    finally:
        os._exit(0)


def _close_world(config: dict[str, Any], method: str | None, layers: list[str]) -> None:
    if method:
        namespaces.build_root(
            config["scratch"], sys.base_prefix, config["limits"]["tmp_bytes"], config["readable"]
        )
        layers += [f"namespaces ({method}): pid, net, mount, ipc, uts", "private root"]
    else:
        os.chdir(config["scratch"])
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if os.geteuid() == 0 and method == "root":
        layers.append(_drop_root(_FIRST_UID + config["uid_offset"]))
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    layers.append("no_new_privs")
    try:
        kernel.drop_capabilities()
        layers.append("no capabilities")
    except OSError:
        pass
    # These two are applied in the program itself; here only what the kernel offers is noted.
    if "landlock" not in config["without"] and landlock.version() > 0:
        layers.append(f"landlock v{landlock.version()}")
    if "seccomp" not in config["without"] and seccomp.supported():
        layers.append("seccomp")
    layers.append("rlimits")


def _drop_root(uid: int) -> str:
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
    except OSError:  # a container may map only 65,536 ids
        uid = 65534
        os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return "unprivileged uid"


def _missing(layers: list[str]) -> str:
    """What a sandbox needs and this machine does not give; "" where it is closed."""
    names = {layer.split()[0] for layer in layers}
    if "namespaces" in names or {"landlock", "seccomp"} <= names:
        return ""
    return "neither namespaces nor Landlock with seccomp can be used here"


def _become_program(config: dict[str, Any], method: str | None, layers: list[str]) -> None:
    """Close what is left open, run the code, exit as an interpreter would. Never returns but by an error of
    the sandbox itself, while the status pipe is open."""
    names = {layer.split()[0] for layer in layers}
    status = config["status_fd"]
    keep = {fd for fd in (config["control_fd"], config["solution_fd"], status) if fd is not None}
    _connect_streams(config)
    below = 3
    for fd in [*sorted(keep), _MAX_FD]:
        os.closerange(below, fd)
        below = fd + 1
    _limit(config["limits"])
    if "landlock" in names:
        readable = [f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
        devices = [f"/dev/{name}" for name in ("null", "zero", "random", "urandom")]
        landlock.restrict(
            readable + config["readable"] + devices[1:],
            [os.getcwd(), devices[0]],
            listable=config["import_from"],
        )
    if "seccomp" in names:
        seccomp.install(namespaces=method is not None)
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME=os.getcwd(), LANG="C.UTF-8")
    if config["import_from"]:
        # Each thread of a numerical library would count against the limits, and gain nothing.
        os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        sys.path += config["import_from"]
    sys.argv = ["program.py"]
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    _tell(status, {"ready": True, "layers": layers})
    os.close(status)
    _serve(config["mode"], config["payload"], config["control_fd"], config["solution_fd"])


def _serve(mode: str, payload: dict[str, str], control: int | None, solution: int | None) -> None:
    code = 1
    try:
        gc.collect()
        if mode == "program":
            server.run_program(payload["code"])
        elif mode == "function":
            server.serve_function(payload["code"], payload["function"], _socket(control))
        else:
            server.run_tests(payload, _socket(control), _socket(solution))
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001 - shown as an interpreter would, then exit 1
        sys.excepthook(*sys.exc_info())
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 255)


def _socket(fd: int | None) -> socket.socket:
    # Family and type are given: asking the descriptor would need calls that are filtered.
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)


def _connect_streams(config: dict[str, Any]) -> None:
    """Standard input is the given text; output goes where the parent put it."""
    text = config["payload"].get("stdin", "").encode()
    if text:
        source = os.memfd_create("stdin")
        os.truncate(source, 0)
        with os.fdopen(os.dup(source), "wb") as stream:
            stream.write(text)
        os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)


def _limit(limits: dict[str, Any]) -> None:
    cpu = max(1, int(-(-limits["cpu_s"] // 1)))
    for which, soft, hard in (
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"], limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))


def _watch(program: int, status: int, timeout_s: float) -> None:
    """Reap everything; when the program itself ends, say how."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, timeout_s + _SELF_DESTRUCT_S)
    started = time.monotonic()
    while True:
        pid, code, usage = os.wait4(-1, 0)
        if pid == program:
            break
    _tell(
        status,
        {
            "exit": os.waitstatus_to_exitcode(code),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": time.monotonic() - started,
        },
    )


def _tell(status: int, message: dict[str, Any]) -> None:
    os.write(status, json.dumps(message).encode("ascii") + b"\n")
