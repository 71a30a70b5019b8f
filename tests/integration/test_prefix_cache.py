"""Prompts that a live vLLM engine keeps: shared by requests that begin alike, gone after a sync."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.protocol import Request, Sampling
from engine.sync_check import SyncError
from engine.vllm_engine import VllmEngine
from model.hybrid import build_config, load_model, save_model
from model.tokenizer import train_tokenizer
from rl.weight_sync import sync
from tests.integration.test_real_model import save_tiny_chatml
from workbench.errors import UserError

pytestmark = pytest.mark.integration
LONG = [5 + i % 290 for i in range(200)]  # over a block
SETTINGS: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 4, "kv_cache_mb": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    save_tiny_chatml(made, hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmEngine]:
    made = VllmEngine(str(folder), EngineConfig(prefix_caching=True, **SETTINGS))
    yield made
    made.close()


def _moved(folder: Path, seed: int) -> Any:
    model = load_model(folder)
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=made))
    return model


def _send(model: Any, engine: VllmEngine, version: int) -> None:
    sync(model, engine, version=version, longest=256, cached=True)


def _gap(model: Any, engine: VllmEngine) -> float:
    """Largest difference of a sampled token's log-probability from the model's own."""
    ((done,),) = engine.generate([LONG], Sampling(max_tokens=8, temperature=1.0, seed=3))
    ids = torch.tensor(done.token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([[*LONG, *done.token_ids]])).logits[0]
    own = logits.log_softmax(-1)[len(LONG) - 1 : -1].gather(1, ids[:, None])[:, 0]
    return float((own - torch.tensor(done.logprobs)).abs().max())


def _cached_tokens(engine: VllmEngine) -> int:
    """Tokens of LONG that the engine does not compute again."""
    params = engine._params(Request(LONG, Sampling(max_tokens=1), seed=1))
    (output,) = engine._run([LONG], params)
    return int(output.num_cached_tokens)


def test_kept_prompts_change_no_reply_and_end_with_a_sync(folder: Path, engine: VllmEngine) -> None:
    for version in (1, 2):
        model = _moved(folder, version)
        _send(model, engine, version)
        assert _cached_tokens(engine) == 0
        assert _cached_tokens(engine) == 128  # one whole block
        assert _gap(model, engine) < 1e-4


def test_prompts_that_outlive_a_sync_are_found_by_its_probes(
    folder: Path, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(_moved(folder, 3), engine, 3)
    with monkeypatch.context() as broken:
        broken.setattr(engine._engine, "reset_prefix_cache", lambda **_: True)
        with pytest.raises(SyncError, match="tokens sampled after the probes are off"):
            _send(_moved(folder, 4), engine, 4)
    model = _moved(folder, 5)
    _send(model, engine, 5)
    assert _gap(model, engine) < 1e-4


def test_requests_under_way_go_on_over_a_sync(folder: Path, engine: VllmEngine) -> None:
    _send(_moved(folder, 6), engine, 6)
    sampling = Sampling(max_tokens=40, stop_token_ids=(0,))
    engine.submit([Request([*LONG, n], sampling, seed=n) for n in range(6)])  # seats: 4
    ended, until = engine.poll(0.05), time.monotonic() + 60
    while not engine._requests and time.monotonic() < until:
        ended += engine.poll(0.001)
    _send(_moved(folder, 7), engine, 7)
    while engine.num_unfinished:
        ended += engine.poll(0.5)
    assert sorted(place for place, _ in ended) == list(range(6))
    for _, done in ended:
        assert done.error is None and len(done.versions) == len(done.token_ids)
        assert len(done.token_ids) == 40 or done.token_ids[-1] == 0
    assert {v for _, done in ended for v in done.versions} == {6, 7}


def test_a_hybrid_is_refused_on_a_cpu(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, tmp_path / "tokenizer")
    model = load_model(build_config("miniature", vocab_size=len(tokenizer)), seed=0)
    save_model(model, tmp_path / "model", tokenizer)
    with pytest.raises(UserError, match=r"prefix_caching is for models of attention alone"):
        VllmEngine(str(tmp_path / "model"), EngineConfig(prefix_caching=True, **SETTINGS))
