"""Untrusted Python, run where it can neither reach anything nor outlive its limit.

Layers, each used where the kernel gives it: PID, network, mount, IPC and UTS namespaces with a
root that holds only Python's library, the packages a task allows and an empty /tmp; an own uid, no
capabilities, no_new_privs; Landlock; a seccomp filter; resource limits; a clean environment. Not covered:
kernel bugs, side channels by timing, and total memory of several processes of one program
(`processes` times `memory_bytes`).
"""

import importlib.util
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench.errors import UserError

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); "
    "from isolation.launcher import main; sys.path.pop(0); main()"
)
_HERE = str(Path(__file__).resolve().parent)
# Starting an interpreter on a busy machine; not part of the program's own time.
START_LIMIT_S = 30.0
_uid_offsets = itertools.count()


class SandboxError(Exception):
    """The sandbox could not be made, or broke. Says nothing about the program."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    timeout_s: wall time; cpu_s: CPU time of each process (None: as timeout_s). memory_bytes:
    address space of each process. output_bytes: standard output and error together.
    """

    timeout_s: float = 5.0
    cpu_s: float | None = None
    memory_bytes: int = 512 * 2**20
    tmp_bytes: int = 64 * 2**20
    file_bytes: int = 16 * 2**20
    processes: int = 32
    open_files: int = 64
    output_bytes: int = 2**20


@dataclass(frozen=True)
class ProgramRun:
    """How a program ended. outcome: "exited", "time_limit" or "output_limit".

    exit_code: negative for a signal; None unless it exited. wall_s: until its last process was gone.
    """

    outcome: str
    exit_code: int | None
    stdout: str
    stderr: str
    wall_s: float


@dataclass
class Sandboxed:
    """A started sandbox; a context manager that leaves no process behind."""

    mode: str
    payload: dict[str, str]
    limits: Limits
    control: socket.socket | None = None
    solution: socket.socket | None = None
    capture: bool = False
    allow_weak: bool = False
    without: Sequence[str] = ()
    packages: Sequence[str] = ()
    """Installed packages that the code may import, beside the standard library."""
    files: Sequence[str] = ()
    """Further files and folders that it may read, by absolute path."""
    layers: list[str] = field(default_factory=list)
    exit: dict[str, Any] | None = None
    wall_s: float = 0.0
    """From its start until its last process was gone; known once it is closed."""
    gone: bool = False
    """Whether nothing that could still report is left of it."""
    _pending: bytes = b""

    def __enter__(self) -> "Sandboxed":
        self._scratch = tempfile.mkdtemp(prefix="sandbox-")
        self.started = (
            time.monotonic()
        )  # again once it is ready: starting is not the program's time
        self._status, status_w = os.pipe()
        config_fd = os.memfd_create("config")
        try:
            self._write_config(config_fd, status_w)
            fds = [s.fileno() for s in (self.control, self.solution) if s is not None]
            pipe = subprocess.PIPE if self.capture else subprocess.DEVNULL
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-B", "-c", _BOOT, str(config_fd), _HERE],
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                pass_fds=[config_fd, status_w, *fds],
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._status)
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        finally:
            os.close(config_fd)
            os.close(status_w)
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        self.started = time.monotonic()
        self.deadline = self.started + self.limits.timeout_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill whatever is left and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # With namespaces the keeper leads its own session; its parent's death kills it, and its
        # death everything in its PID namespace, before the status pipe's last end closes.
        self.process.wait()
        self._await_end()
        self.wall_s = time.monotonic() - self.started
        os.close(self._status)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def read_exit(self, wait_s: float = 0.2) -> dict[str, Any] | None:
        """{"exit", "cpu_s", "wall_s"} once the program has ended; None before."""
        if self.exit is None:
            message = self._message(time.monotonic() + wait_s)
            self.exit = message if message and "exit" in message else None
        return self.exit

    def why_gone(self) -> str:
        """How the program ended that has not been heard of: "exited", "killed" or "time_limit".

        Raises: SandboxError where the sandbox itself was ended: that says nothing about the program.
        """
        left = self.deadline - time.monotonic()
        ended = self.read_exit(min(2.0, max(0.2, left)))
        if ended is None and self.gone:
            if time.monotonic() >= self.deadline:  # it ends itself where nobody does
                return "time_limit"
            raise SandboxError("the sandbox ended without saying how the program did")
        if ended is not None and ended["exit"] in (-signal.SIGXCPU, -signal.SIGKILL):
            return "time_limit" if ended["cpu_s"] >= self.limits.timeout_s - 0.1 else "killed"
        return "exited"

    @property
    def status_fd(self) -> int:
        """Readable when the program has ended."""
        return self._status

    def _write_config(self, fd: int, status_w: int) -> None:
        limits = asdict(self.limits)
        limits["cpu_s"] = limits["cpu_s"] or limits["timeout_s"]
        folders = [folder for name in self.packages for folder in _package_folders(name)]
        config = {
            "mode": self.mode,
            "payload": self.payload,
            "limits": limits,
            "status_fd": status_w,
            "control_fd": self.control.fileno() if self.control else None,
            "solution_fd": self.solution.fileno() if self.solution else None,
            "scratch": self._scratch,
            "allow_weak": self.allow_weak,
            "without": list(self.without),
            "import_from": sorted({str(Path(f).parent) for f in folders}),
            "readable": [*folders, *self.files],
            "uid_offset": os.getpid() % 1_000_000 * 1000 + next(_uid_offsets) % 1000,
        }
        os.write(fd, json.dumps(config).encode("ascii"))
        os.lseek(fd, 0, os.SEEK_SET)

    def _await_ready(self) -> None:
        message = self._message(time.monotonic() + START_LIMIT_S)
        if message is None:
            raise SandboxError("the sandbox did not start")
        self.layers = message.get("layers", [])
        if "refused" in message:
            raise SandboxError(
                f"no safe sandbox: {message['refused']} (have: {', '.join(self.layers)}); allow "
                "user namespaces or use a kernel with Landlock, or pass allow_weak=True"
            )
        if "ready" not in message:
            raise SandboxError(f"the sandbox broke: {message.get('broken', message)}")

    def _message(self, deadline: float) -> dict[str, Any] | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._status, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(self._status, 4096)
                if not chunk:
                    self.gone = True
                    return None
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _await_end(self) -> None:
        """Wait until no process holds the status pipe: the keeper is gone."""
        limit = time.monotonic() + 5.0
        while time.monotonic() < limit:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if selector.select(0.5) and not os.read(self._status, 4096):
                    return


def run_program(
    code: str,
    stdin: str = "",
    *,
    limits: Limits | None = None,
    allow_weak: bool = False,
    without: Sequence[str] = (),
    packages: Sequence[str] = (),
    files: Sequence[str] = (),
) -> ProgramRun:
    """Run `code` as a main program with `stdin` on standard input.

    without: layers to leave out ("namespaces", "landlock", "seccomp"); for tests of the others.
    packages, files: see Sandboxed.
    Raises SandboxError where there is no sandbox to run it in.
    """
    limits = limits or Limits()
    payload = {"code": code, "stdin": stdin}
    with Sandboxed(
        "program",
        payload,
        limits,
        capture=True,
        allow_weak=allow_weak,
        without=without,
        packages=packages,
        files=files,
    ) as box:
        outcome, out, err = _collect(box)
        if outcome == "exited" and box.read_exit() is None and box.why_gone() == "time_limit":
            outcome = "time_limit"
        ended = box.exit if outcome == "exited" else None
        if ended is not None and ended["exit"] in (-signal.SIGXCPU, -signal.SIGKILL):
            used_up = ended["cpu_s"] >= (limits.cpu_s or limits.timeout_s) - 0.1
            outcome = "time_limit" if used_up else outcome
        code_ = ended["exit"] if ended is not None and outcome == "exited" else None
        if outcome == "exited" and code_ is None:
            raise SandboxError("the sandbox ended without saying how the program did")
    return ProgramRun(outcome, code_, out, err, box.wall_s)


def _collect(box: Sandboxed) -> tuple[str, str, str]:
    """Read both streams until the program ends, the deadline, or too much output."""
    assert box.process.stdout is not None and box.process.stderr is not None
    streams = {box.process.stdout.fileno(): bytearray(), box.process.stderr.fileno(): bytearray()}
    out, err = streams.values()
    outcome = "exited"
    with selectors.DefaultSelector() as selector:
        for fd in (*streams, box.status_fd):
            selector.register(fd, selectors.EVENT_READ)
        ended = False
        while True:
            # After the end, only what is already in the pipes counts.
            left = 0.0 if ended else box.deadline - time.monotonic()
            if left <= 0 and not ended:
                outcome = "time_limit"
                break
            ready = [key.fd for key, _ in selector.select(left)]
            if not ready and ended:
                break
            for fd in ready:
                if fd == box.status_fd:
                    box.read_exit()
                    selector.unregister(fd)
                    ended = True
                    continue
                chunk = os.read(fd, 65536)
                streams[fd] += chunk
                if not chunk:
                    selector.unregister(fd)
            if len(out) + len(err) > box.limits.output_bytes:
                outcome = "output_limit"
                break
    limit = box.limits.output_bytes
    return outcome, out[:limit].decode("utf-8", "replace"), err[:limit].decode("utf-8", "replace")


@cache
def _package_folders(name: str) -> tuple[str, ...]:
    """Where an installed package lies, with the shared libraries that its wheel brought."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SandboxError(f"the package {name!r} is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    libraries = folder.with_name(f"{name}.libs")
    return (str(folder), *([str(libraries)] if libraries.is_dir() else []))


def require_sandbox() -> None:
    """Raises: UserError where programs cannot be run safely here: found before any is sampled."""
    found = describe_sandbox()
    if not found["safe"]:
        raise UserError(f"programs cannot be checked on this machine: {found['problem']}")


@lru_cache(maxsize=1)
def describe_sandbox() -> dict[str, Any]:
    """{"safe": bool, "layers": [...], "problem": str}: what a sandbox is made of here."""
    try:
        with Sandboxed("program", {"code": ""}, Limits()) as box:
            return {"safe": True, "layers": list(box.layers), "problem": ""}
    except SandboxError as error:
        return {"safe": False, "layers": [], "problem": str(error)}
