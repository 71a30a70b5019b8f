"""A sweep's view of real vLLM servers: who is served, and three ways to keep a thinking budget."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import Completion, Sampling
from evals.endpoint import EndpointResponder
from evals.responder import Ask
from workbench.conversation import Conversation

pytestmark = pytest.mark.integration

_LENGTH, _BUDGET, _GRACE, _MOST = 512, 8, 4, 40
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(Path.cwd()),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape and tokenizer."""
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    paths = [tmp_path_factory.mktemp("tiny") for _ in range(2)]
    for seed, path in enumerate(paths):
        tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
        config = build_config(
            "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=_LENGTH
        )
        load_model(config, seed=seed).save_pretrained(path)
    return paths


@dataclass
class _Server:
    """A vLLM server that has been started; `address` waits until it answers."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return f"http://127.0.0.1:{self.port}/v1#tiny"
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(1)
        raise AssertionError(f"no answer: {self.log.read_text()[-3000:]}")


@contextmanager
def _serve(checkpoint: Path, log: Path, *options: str) -> Iterator[_Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command += [str(checkpoint), "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--max-model-len", str(_LENGTH), "--enforce-eager", "--max-num-seqs", "8"]
    command += ["--no-enable-prefix-caching", "--served-model-name", "tiny", *options]
    with log.open("w") as lines:
        process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=lines, stderr=lines
        )
        try:
            yield _Server(port, process, log)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# How a server was started -> how a budget is kept there, and the most tokens of a trace.
_PROCESSOR = ("--logits-processors", "budget.processor:ThinkingBudgetProcessor")
_OWN = ("--reasoning-config", json.dumps({"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}))  # fmt: skip


@pytest.fixture(scope="module")
def servers(checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[_Server]]:  # fmt: skip
    """One server a model, started side by side: our processor in the first, vLLM's own budgets in the
    second."""
    logs = tmp_path_factory.mktemp("logs")
    with (
        _serve(checkpoints[0], logs / "0.log", *_PROCESSOR) as first,
        _serve(checkpoints[1], logs / "1.log", *_OWN) as second,
    ):
        yield [first, second]


def _replies(responder: EndpointResponder) -> list[Completion]:
    sampling = Sampling(
        _MOST, thinking_budget=_BUDGET, thinking_grace=_GRACE, temperature=1.0, logprobs=False
    )
    conversation = Conversation("q", "d", [{"role": "user", "content": "q"}])
    prompt = responder.prepare(conversation, thinking=True)
    asks = [Ask(prompt, sampling, seed) for seed in range(6)]
    return [done for _, done in responder.stream(asks)]


@pytest.mark.parametrize(
    ("place", "how", "most"),
    [
        (0, "our logits processor in the server", _BUDGET + _GRACE),
        # vLLM counts a little otherwise
        (1, "the server's own thinking_token_budget", _BUDGET + 1),
    ],
)
def test_a_budget_is_kept(
    checkpoints: list[Path], servers: list[_Server], place: int, how: str, most: int
) -> None:
    _keeps(servers[place].address, checkpoints[place], how, most)


def test_a_budget_is_kept_by_a_server_that_knows_none(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    how = "two calls: the trace cut at the budget, no newline waited for"
    with _serve(checkpoints[0], tmp_path / "serve.log") as server:
        _keeps(server.address, checkpoints[0], how, _BUDGET)


def _keeps(address: str, checkpoint: Path, how: str, most: int) -> None:
    responder = EndpointResponder(address)
    done = _replies(responder)
    served: dict[str, Any] = responder.served
    again = EndpointResponder(address)
    assert again.identity == responder.identity
    assert again.format.opens  # our template's prompts end inside the trace
    assert served["budgets"] == how
    assert served["entry"]["root"] == str(checkpoint) and "created" not in served["entry"]
    assert len(served["probe_replies"]) == 3
    for one in done:
        assert one.finish_reason in ("stop", "length"), one.error
        assert one.text.count("</think>") == 1
        assert one.thinking_tokens is not None and 0 < one.thinking_tokens <= most
        assert len(one.token_ids) <= _MOST


def test_one_sweep_compares_a_checkpoint_and_two_servers(
    checkpoints: list[Path], servers: list[_Server], tmp_path: Path
) -> None:
    """The first server has the checkpoint itself: greedy replies are those of the folder."""
    models = dict(
        zip(
            ("folder", "same", "other"),
            (checkpoints[0], servers[0].address, servers[1].address),
            strict=True,
        )
    )
    command = [
        sys.executable, "scripts/sweep.py", "--models", ",".join(f"{n}={p}" for n, p in models.items()),
        "--benchmarks", "mini-math", "--limit", "12", "--run", "three", "--budgets", "none",
    ]  # fmt: skip
    settings = [
        f"runs_dir={tmp_path}", "cluster.backend=local", "evals.engine.dtype=float32", "evals.max_tokens=12",
        f"evals.engine.max_model_len={_LENGTH}", "evals.temperature=0",
    ]  # fmt: skip
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    out = tmp_path / "three" / "evals"
    texts = {name: _texts(out / name / "mini-math") for name in models}
    assert {len(found) for found in texts.values()} == {12}
    alike = sum(texts["folder"][q] == texts["same"][q] for q in texts["folder"])
    assert alike >= 11  # two logits may be equal to the last bits
    assert sum(texts["other"][q] == texts["same"][q] for q in texts["folder"]) < 6
    rows = [line for line in done.stdout.splitlines() if line.startswith(tuple(models))]
    assert [row.split()[0] for row in rows if "mini-math" in row] == list(models)
    pairs = json.loads((out / "comparisons.json").read_text())
    assert {(pair["against"], pair["model"]) for pair in pairs} == {
        ("folder", "same"), ("folder", "other"), ("same", "other"),
    }  # fmt: skip
    assert all(len(pair["difference"]["ci95"]) == 2 for pair in pairs)
    page = (out / "index.html").read_text()
    assert all(f">{name}<" in page for name in models)


def _texts(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["why"] for row in rows if row["value"] is None] == []
    # A reply that is cut inside a character ends with marks for its bytes here, and before it there.
    return {row["id"]: row["reply"].rstrip("\ufffd") for row in rows}
