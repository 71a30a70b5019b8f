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
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
    config = build_config(
        "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=_LENGTH
    )
    load_model(config, seed=0).save_pretrained(path)
    return path


@contextmanager
def _serve(checkpoint: Path, log: Path, *options: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command += [str(checkpoint), "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--max-model-len", str(_LENGTH), "--enforce-eager", "--max-num-seqs", "8"]
    command += ["--no-enable-prefix-caching", "--served-model-name", "tiny", *options]
    with log.open("w") as lines:
        server = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=lines, stderr=lines
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1#tiny"
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(1)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-3000:]}")


def _replies(responder: EndpointResponder) -> list[Completion]:
    sampling = Sampling(
        _MOST, thinking_budget=_BUDGET, thinking_grace=_GRACE, temperature=1.0, logprobs=False
    )
    conversation = Conversation("q", "d", [{"role": "user", "content": "q"}])
    prompt = responder.prepare(conversation, thinking=True)
    asks = [Ask(prompt, sampling, seed) for seed in range(6)]
    return [done for _, done in responder.stream(asks)]


@pytest.mark.parametrize(
    ("options", "how", "most"),
    [
        (
            ("--logits-processors", "budget.processor:ThinkingBudgetProcessor"),
            "our logits processor in the server",
            _BUDGET + _GRACE,
        ),
        (
            ("--reasoning-config", json.dumps({"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"})),
            "the server's own thinking_token_budget",
            _BUDGET + 1,  # vLLM counts a little otherwise
        ),
        ((), "two calls: the trace cut at the budget, no newline waited for", _BUDGET),
    ],
)  # fmt: skip
def test_a_budget_is_kept(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...], how: str, most: int
) -> None:
    with _serve(checkpoint, tmp_path / "serve.log", *options) as address:
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
