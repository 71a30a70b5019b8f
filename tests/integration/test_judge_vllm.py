"""The judge's protocol against a real vLLM server: what a model without sense says is never a score."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from engine.judge_client import JudgeClient
from reward.pairwise import PairwiseConfig, win_rates

pytestmark = pytest.mark.integration

_LENGTH = 2048


def _checkpoint(path: Path) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, path)
    config = build_config(
        "miniature", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=_LENGTH
    )
    load_model(config, seed=0).save_pretrained(path)
    return path


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


def test_a_served_model(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command += [str(checkpoint), "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--max-model-len", str(_LENGTH), "--enforce-eager"]
    command += ["--no-enable-prefix-caching", "--served-model-name", "tiny"]
    extra = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(Path.cwd()),
    }  # fmt: skip
    path = tmp_path / "serve.log"
    with path.open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **extra}, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, path)
            config = PairwiseConfig(
                endpoint=f"http://127.0.0.1:{port}/v1#tiny", max_tokens=16, retries=0
            )
            JudgeClient(config.model_copy(update={"max_tokens": 4})).must_answer()
            prompt = [{"role": "user", "content": "q"}]
            groups = [(prompt, ["a", "b", "c"]), (prompt, ["a", "a"])]
            first, same = win_rates(JudgeClient(config), groups, pairs="all", principle="p")
            address = config.endpoint.replace("#tiny", "#huge")
            missing = JudgeClient(config.model_copy(update={"endpoint": address})).ask(prompt)
        finally:
            server.terminate()
            server.wait(30)
    # Noise of 16 tokens: it was served (no transport error), and it is not a verdict.
    assert [v.status for v in first] == ["error"] * 3
    assert all(v.parts["undecided"] == 2 for v in first)
    reason = first[0].parts["reason"]
    assert "token limit" in reason or "no verdict" in reason or "empty reply" in reason
    assert [v.value for v in same] == [0.5, 0.5]
    assert missing.status == "error" and "NotFoundError" in missing.reason
