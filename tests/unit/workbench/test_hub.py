"""The hub that does not answer: one line, in seconds, naming what was asked of it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from model.decoder import configuration
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


@contextmanager
def _hub(files: dict[str, bytes]) -> Iterator[tuple[int, list[str]]]:
    """A hub with these files at one commit: its port, and the paths that were asked of it."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            asked.append(self.path)
            found = files.get(self.path)
            self.send_response(404 if found is None else 200)
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("ETag", '"' + "e" * 40 + '"')
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            if body:
                self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._configuration_asked.cache_clear()


@pytest.mark.usefixtures("empty_cache")
def test_the_plan_of_a_model_of_the_hub_fetches_its_configuration_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = json.dumps({"model_type": "llama", "hidden_size": 64}).encode()
    with _hub({"/some/model/resolve/main/config.json": written}) as (port, asked):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert configuration("some/model")["hidden_size"] == 64
        assert {path for path in asked if path != "/"} == {"/some/model/resolve/main/config.json"}
        del asked[:]
        assert configuration("some/model")["hidden_size"] == 64 and not asked  # of the cache
        with pytest.raises(
            UserError, match=r"'some/other' cannot be read .*hf download some/other c"
        ):
            configuration("some/other")


@pytest.mark.usefixtures("empty_cache")
def test_a_plan_without_the_hub_says_how_to_get_the_configuration(
    monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    """Once a minute: not a wait for every stage that asks."""
    monkeypatch.setattr(hub, "_PATIENCE_S", 0.5)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    began = time.monotonic()
    for _ in range(8):
        with pytest.raises(
            UserError, match=r"does not answer .*hf download some/model config.json"
        ):
            configuration("some/model")
    assert time.monotonic() - began < 3
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE is set; .*download a/b config.json --rev.* v2"
    ):
        configuration("a/b", "v2")


def test_a_run_of_the_12b_without_the_hub_ends_in_one_line(
    tmp_path: Path, closed_port: int
) -> None:
    """Through the command line: exit 2, one line that names the source, well within a minute."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}", "HF_HUB_OFFLINE": "0"}
    # Without Ray no stage can be spread or sample ahead, and all are checked before the first runs.
    alone = [
        word
        for name, stage in load("recipes/nano2-12b.yaml").stages.items()
        if getattr(getattr(stage, "distributed", None), "on", False)
        for word in ("--set", f"stages.{name}.distributed={{strategy: none}}")
    ] + [
        word
        for name, stage in load("recipes/nano2-12b.yaml").stages.items()
        if getattr(stage, "max_staleness", 0)
        for word in ("--set", f"stages.{name}.max_staleness=0")
    ]
    done = subprocess.run(
        [sys.executable, "scripts/run_stage.py", "tokenizer", "--recipe", "recipes/nano2-12b.yaml",
         "--set", "cluster.backend=local", "--set", f"runs_dir={tmp_path}", *alone],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "nvidia/NVIDIA-Nemotron-Nano-12B-v2-Base" in lines[0], done.stderr
