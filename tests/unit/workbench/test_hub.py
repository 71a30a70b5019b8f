"""The hub that does not answer: one line, in seconds, naming what was asked of it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from workbench import hub
from workbench.errors import UserError
from workbench.recipe import load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and never says a word, as a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def _ask(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    hub.must_answer("source 'math': the hub dataset 'a/b'", "download it")


def test_a_refused_and_a_silent_hub_are_named(
    monkeypatch: pytest.MonkeyPatch, closed_port: int, silent_port: int
) -> None:
    monkeypatch.setattr(hub, "_PATIENCE_S", 0.3)
    for port in (closed_port, silent_port):
        with pytest.raises(UserError, match=r"hub dataset 'a/b' cannot be opened: .*download it"):
            _ask(monkeypatch, port)


def test_any_status_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        _ask(monkeypatch, server.server_port)


def test_a_run_of_the_12b_without_the_hub_ends_in_one_line(
    tmp_path: Path, closed_port: int
) -> None:
    """Through the command line: exit 2, one line that names the source, well within a minute."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}", "HF_HUB_OFFLINE": "0"}
    # Without Ray no stage can be spread, and all are checked before the first runs.
    alone = [
        word
        for name, stage in load("recipes/nano2-12b.yaml").stages.items()
        if getattr(getattr(stage, "distributed", None), "on", False)
        for word in ("--set", f"stages.{name}.distributed={{strategy: none}}")
    ]
    done = subprocess.run(
        [sys.executable, "scripts/run_stage.py", "tokenizer", "--recipe", "recipes/nano2-12b.yaml",
         "--set", "cluster.backend=local", "--set", f"runs_dir={tmp_path}", *alone],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "nvidia/NVIDIA-Nemotron-Nano-12B-v2-Base" in lines[0], done.stderr
