"""A Ray head of a test's own, for `ray job submit`."""

import socket
import subprocess
import sys
from pathlib import Path

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
