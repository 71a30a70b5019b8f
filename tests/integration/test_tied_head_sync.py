"""Weights of a tied Llama in a live vLLM engine: the output layer follows the embedding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import vllm_engine
from engine.config import EngineConfig
from engine.protocol import Sampling
from engine.sync_check import SyncError
from engine.vllm_engine import VllmEngine
from tests.integration.test_real_model import save_tiny_chatml

pytestmark = pytest.mark.integration
PROMPT = [5, 300, 17, 44, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tied")
    # Heads of 32: the smallest that vLLM's attention takes on a CPU.
    save_tiny_chatml(made, hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmEngine]:
    made = VllmEngine(str(folder), EngineConfig(max_model_len=256, max_num_seqs=4, kv_cache_mb=64))
    yield made
    made.close()


def _moved(folder: Path, seed: int) -> Any:
    """transformers' model with every weight moved far."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=made))
    return model


@pytest.mark.parametrize("version", [1, 2])
def test_the_engine_samples_from_what_transformers_computes(
    folder: Path, engine: VllmEngine, version: int
) -> None:
    model = _moved(folder, version)
    engine.update_weights(list(model.state_dict().items()), version=version)
    ((done,),) = engine.generate([PROMPT], Sampling(max_tokens=8, temperature=1.0, seed=3))
    ids = torch.tensor(done.token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *done.token_ids]])).logits[0]
    expected = logits.log_softmax(-1)[len(PROMPT) - 1 : -1].gather(1, ids[:, None])[:, 0]
    assert len(ids) > 1
    assert torch.allclose(torch.tensor(done.logprobs), expected, atol=1e-4)


def test_a_head_that_stayed_behind_is_named(
    folder: Path, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "renew_tied_head", lambda model: None)
    with pytest.raises(SyncError, match="embed_tokens"):
        engine.update_weights(list(_moved(folder, 9).state_dict().items()), version=3)
