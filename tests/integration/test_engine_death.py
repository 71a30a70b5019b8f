"""A real vLLM engine killed in the middle of a batch: nothing lost, nothing twice, newest weights."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.protocol import Request, Sampling

pytestmark = pytest.mark.integration
MAX_LEN, REQUESTS = 128, 24


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    from workbench.cluster import thread_environment

    os.environ.update(thread_environment())
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, namespace="death"
    )
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_engine_loses_no_prompt_and_samples_from_the_newest_weights(
    ray: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], lora: bool
) -> None:
    """lora: the engine of the first, warm, is given another checkpoint; one made again gets the adapters."""
    from engine.remote import start_engine
    from model.hybrid import build_config, load_model, save_model
    from model.lora import add_adapters
    from model.lora_config import LoraConfig
    from model.tokenizer import train_tokenizer
    from rl.weight_sync import sync

    tokenizer = train_tokenizer(["a line\nof text\n"] * 3, 300, tmp_path / "tokenizer")
    config = build_config("miniature", vocab_size=len(tokenizer), hidden_size=64)
    model: Any = load_model(config, seed=int(lora))
    save_model(model, tmp_path / "model", tokenizer)
    settings = EngineConfig(
        max_model_len=MAX_LEN, max_num_seqs=4, max_num_batched_tokens=256, kv_cache_mb=64
    )
    engine: Any = start_engine(tmp_path / "model", settings)
    if lora:
        add_adapters(model, LoraConfig(rank=4, alpha=8))
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.mul_(1.2).add_(0.02 * lora)
    sync(model, engine, version=5, longest=MAX_LEN)
    sampling = Sampling(max_tokens=100, stop_token_ids=(0,))
    requests = [Request([5, 20 + n], sampling, seed=n) for n in range(REQUESTS)]
    (replica,) = engine._replicas
    pid = ray.get(replica.started)
    stream = engine.stream(requests)
    ended = [next(stream)]
    out = REQUESTS - len(ended)
    os.kill(pid, signal.SIGKILL)
    ended += stream
    places = [place for place, _ in ended]
    with capsys.disabled():
        print(
            f"\nkilled with {out} of {REQUESTS} prompts out: {len(places)} replies, "
            f"{len(set(places))} different, {replica.restarts} restart"
        )
    assert sorted(places) == list(range(REQUESTS))
    assert (engine.restarts, ray.get(replica.started) != pid) == (1, True)
    # The new engine's samples are those of the weights and seeds that the dead one had.
    again = dict(engine.stream(requests))
    for place, done in ended:
        assert set(done.versions) == {5}
        assert done.token_ids == again[place].token_ids
        assert done.logprobs == pytest.approx(again[place].logprobs, abs=1e-4)
    engine.close()
