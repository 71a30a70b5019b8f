"""A Ray head of a test's own, for `ray job submit`, and further nodes that join it on this machine."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from tests import tiny


class RayHead:
    """A Ray head of the test's own: its ports, its folder, its home."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.dashboard = folder, free_port(), free_port()
        self.environment = tiny.environment() | {
            "HOME": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.ray = str(Path(sys.executable).parent / "ray")

    def start(self) -> None:
        self.run(
            "start", "--head", f"--port={self.port}", "--num-cpus=2", "--include-dashboard=true",
            f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={self.folder / 'ray'}", "--disable-usage-stats",
            "--object-store-memory=268435456",
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def join(self, cpus: int) -> psutil.Process:
        """Start another node with its own resources. Returns its raylet, whose children its workers are."""
        before = self._raylets()
        self.run(
            "start", f"--address={self.address}", f"--num-cpus={cpus}", "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=134217728",
        )  # fmt: skip
        (new,) = self._raylets() - before
        return psutil.Process(new)

    def _raylets(self) -> set[int]:
        found = {p.pid: p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])}
        own = f"{self.folder}/"
        return {
            pid
            for pid, words in found.items()
            if words[:1] and words[0].endswith("/raylet") and own in " ".join(words)
        }

    def run(self, *words: str, timeout_s: float = 600, ok: bool = True) -> str:
        done = subprocess.run(
            [self.ray, *words], cwd=tiny.ROOT, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stdout
        return done.stdout

    def submit(self, *words: str, wait: bool = True) -> str:
        """Submit scripts/run_stage.py; returns what the command printed."""
        address = f"http://127.0.0.1:{self.dashboard}"
        more = [] if wait else ["--no-wait"]
        return self.run(
            "job", "submit", f"--address={address}", "--working-dir=.", *more, "--", "python",
            "scripts/run_stage.py", *words,
        )  # fmt: skip

    def job(self, verb: str, name: str, ok: bool = True) -> str:
        return self.run("job", verb, f"--address=http://127.0.0.1:{self.dashboard}", name, ok=ok)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def lose(node: psutil.Process) -> None:
    """`kill -9` of all processes of a node at once, as a machine goes away."""
    for process in [node, *node.children(recursive=True)]:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
