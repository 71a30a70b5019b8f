"""Our paths through vLLM on a CPU against its own: the same replies, the same log-probabilities, and in use."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.protocol import Request, Sampling
from tests.integration.test_vllm_engine import make_checkpoint

pytestmark = pytest.mark.integration

# Of the layers' fp32 arithmetic in another order; a wrong state or seed is 1e-2 and more, or another reply.
CLOSE = 2e-5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from engine.vllm_engine import VllmEngine

    folder = make_checkpoint(tmp_path_factory.mktemp("paths"), seed=0)
    engine = VllmEngine(str(folder), EngineConfig(max_model_len=512, max_num_seqs=5))
    yield engine
    engine.close()


def requests() -> list[Request]:
    """Prompts shorter than the convolution and longer than a chunk, replies over a block of 128 tokens;
    with five seats prompts begin while others decode."""
    made = torch.Generator().manual_seed(0)
    lengths = [1, 2, 3, 4, 5, 63, 64, 65, 130, 300, 7, 126]
    out = []
    for number, length in enumerate(lengths):
        ids = torch.randint(20, 290, (length,), generator=made).tolist()
        sampling = Sampling(
            max_tokens=30 + 11 * number, to_the_end=True, top_p=(1.0, 0.9)[number % 2]
        )
        out.append(Request(ids, sampling, seed=number))
    return out


def vllms_own(engine: Any, patch: pytest.MonkeyPatch) -> None:
    """Take our paths away."""
    from engine import cpu_layers

    for layer in (cpu_layers.CpuRMSNorm, cpu_layers.CpuGatedNorm, cpu_layers.CpuMamba):
        patch.setattr(layer, "forward", layer.__mro__[1].forward)
    core = engine._engine.engine_core.engine_core
    manager = core.scheduler.kv_cache_manager
    patch.setattr(manager, "allocate_slots", type(manager).allocate_slots.__get__(manager))
    sampler = core.model_executor.driver_worker.worker.model_runner.sampler.topk_topp_sampler
    patch.setattr(sampler, "forward", sampler.forward_cpu)


def test_replies_and_logprobs_are_those_of_vllms_own_code(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = dict(engine.stream(requests()))
    vllms_own(engine, monkeypatch)
    own = dict(engine.stream(requests()))
    assert {place: c.token_ids for place, c in ours.items()} == {
        place: c.token_ids for place, c in own.items()
    }
    differences = [
        abs(a - b)
        for place, completion in ours.items()
        for a, b in zip(completion.logprobs, own[place].logprobs, strict=True)
    ]
    assert len(differences) > 1000
    assert max(differences) < CLOSE


def test_every_layer_takes_our_path(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own code is never come to: neither by one-token steps nor by prompts."""
    from engine import cpu_layers

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("vLLM's own code runs")

    for layer in (cpu_layers.CpuRMSNorm, cpu_layers.CpuGatedNorm, cpu_layers.CpuMamba):
        monkeypatch.setattr(layer.__mro__[1], "forward", refuse)
    core = engine._engine.engine_core.engine_core
    sampler = core.model_executor.driver_worker.worker.model_runner.sampler.topk_topp_sampler
    monkeypatch.setattr(type(sampler), "forward_cpu", refuse)
    assert len(dict(engine.stream(requests()))) == len(requests())


def test_blocks_are_asked_for_only_where_they_end(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = engine._engine.engine_core.engine_core
    coordinator, asked = core.scheduler.kv_cache_manager.coordinator, []
    allocate = coordinator.allocate_new_blocks

    def counted(name: str, tokens: int, *rest: Any, **options: Any) -> Any:
        asked.append(tokens)
        return allocate(name, tokens, *rest, **options)

    monkeypatch.setattr(coordinator, "allocate_new_blocks", counted)
    prompt = list(range(20, 120))
    request = Request(prompt, Sampling(max_tokens=200, to_the_end=True), seed=0)
    (done,) = dict(engine.stream([request])).values()
    assert len(done.token_ids) == 200
    # The prompt, and the first token of the second and of the third block of 128.
    assert asked == [100, 129, 257]
