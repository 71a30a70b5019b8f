"""A copy of the working tree in which lines are broken: the tree itself is never touched."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# What most tests import: a fork has it at once.
PRELOADED = ("torch", "transformers.models.nemotron_h.modeling_nemotron_h")
_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Ending:
    """How tests ended. test: the first that failed, or the file that could not be read."""

    kind: Literal["passed", "failed", "unread", "timeout", "crashed"]
    test: str
    wall_s: float


def files_of(root: Path) -> list[str]:
    """Tracked files as they are now, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return sorted({name for name in listed.stdout.split("\0") if name and (root / name).is_file()})


class Copy:
    """A copy of `root` in a folder of its own, with .venv linked, and a process that runs its tests."""

    def __init__(self, root: Path, folder: Path, preloaded: Sequence[str] = PRELOADED) -> None:
        self.folder = folder
        for name in files_of(root):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
        if (root / ".venv").exists():
            (folder / ".venv").symlink_to((root / ".venv").resolve())
        self._log = (folder / ".log").open("w")
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._worker = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), *preloaded],
            cwd=folder, env=os.environ | {"PYTHONPATH": path}, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        self._unread = b""

    def run(self, tests: Sequence[str], limit_s: float) -> Ending:
        """Run tests, up to the first failure or the limit. What they started is ended with them."""
        report = self.folder / ".first"
        report.unlink(missing_ok=True)
        began = time.monotonic()
        self._send({"tests": list(tests), "report": str(report)})
        pid = int(self._receive(None)["pid"])
        answer = self._receive(limit_s)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        late = answer is None
        code = (self._receive(None) if answer is None else answer)["code"]
        wall_s = time.monotonic() - began
        if late:
            return Ending("timeout", "", wall_s)
        found = json.loads(report.read_text()) if report.exists() else {}
        if "unread" in found:
            return Ending("unread", found["unread"], wall_s)
        if "failed" in found:
            return Ending("failed", found["failed"], wall_s)
        return Ending(
            "passed" if code == 0 else "crashed", f"exit code {code}" if code else "", wall_s
        )

    @contextmanager
    def planted(self, file: str, text: str) -> Iterator[None]:
        """The file with another text inside the block."""
        path = self.folder / file
        before = path.read_text(encoding="utf-8")
        _write(path, text)
        try:
            yield
        finally:
            _write(path, before)

    def log(self) -> str:
        """The end of what the tests printed."""
        return (self.folder / ".log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait()
        self._log.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(request).encode() + b"\n")

    def _receive(self, limit_s: float | None) -> Any:
        """The next answer, or None after the limit."""
        assert self._worker.stdout is not None
        pipe, until = self._worker.stdout.fileno(), time.monotonic() + (limit_s or 0)
        while b"\n" not in self._unread:
            left = None if limit_s is None else max(until - time.monotonic(), 0)
            if not select.select([pipe], [], [], left)[0]:
                return None
            part = os.read(pipe, 4096)
            if not part:
                raise RuntimeError(f"the process that runs the tests has died: {self.log()}")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


def _write(path: Path, text: str) -> None:
    """Write with a time that no version of the file had: compiled files are told apart by it."""
    newer = int(path.stat().st_mtime) + 1
    path.write_text(text, encoding="utf-8")
    os.utime(path, (newer, newer))


@contextmanager
def copied(root: Path, preloaded: Sequence[str] = PRELOADED) -> Iterator[Copy]:
    """A copy for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Copy(root, Path(folder), preloaded)
        try:
            yield copy
        finally:
            copy.close()
