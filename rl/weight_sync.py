"""The policy's weights into the engine, with the proof that the engine then samples from them."""

from typing import Any

import torch
from torch import distributed, nn
from transformers import PreTrainedModel

from engine.config import EngineConfig
from engine.protocol import Engine
from engine.shares import Post
from engine.sync_check import (
    PROBE_REPLY_TOKENS,
    Probe,
    Proof,
    SyncReport,
    digests_of,
    probe_ids,
)
from model.logprobs import Truncation, model_logprobs
from model.lora import has_adapters, merged_state, without_inner
from model.sharding.core import whole_tensors
from model.sharding.shard import inside
from workbench.distributed import group


def sync(
    model: nn.Module, engine: Engine, *, version: int, longest: int, cached: bool = False
) -> SyncReport | None:
    """Give the engine every tensor of the policy, under its Hugging Face name.

    `longest`: tokens of a prompt and its reply that the engine takes. `cached`: it keeps prompts
    (`EngineConfig.prefix_caching`). Raises: SyncError where what
    the engine holds or computes afterwards is not the policy.
    """
    state = without_shared(merged_state(model) if has_adapters(model) else model.state_dict())
    proof = prove(model, state, version=version, longest=longest, cached=cached)
    tensors = [(name, tensor.detach().cpu()) for name, tensor in state.items()]
    return engine.update_weights(tensors, version=version, proof=proof)


def sync_shares(
    model: PreTrainedModel,
    engine: Engine | None,
    post: Post,
    *,
    version: int,
    longest: int,
    cached: bool = False,
) -> SyncReport | None:
    """`sync` of a model whose parameters several processes hold in shards. engine: the first one's.

    Each tensor is gathered by all and kept by one of them, which digests it and puts it into the object
    store: what arrives is to the bit what one process would send. Every process must call it; all of them
    get the report. Raises: SyncError in the first process.
    """
    own = own_share(model)
    post.send(group.rank(), own.items())
    digests = _union(digests_of(own))
    group.barrier()
    prompts = _probes(model, version=version, longest=longest, cached=cached)
    if engine is None:
        score(model, prompts)  # with the first one, which scores while its engines load
        return group.from_first(lambda: None)
    proof = Proof(digests, lambda: score(model, prompts))
    report = engine.update_weights(post.collect(), version=version, proof=proof)  # type: ignore[arg-type]
    return group.from_first(lambda: report)


def publish(
    model: PreTrainedModel,
    engine: Engine | None,
    post: Post | None,
    *,
    version: int,
    config: EngineConfig,
) -> SyncReport | None:
    """The weights to the engine, by `sync_shares` where processes share them (post), else by `sync`.

    Every process must call it. Raises: SyncError in the first.
    """
    how: dict[str, Any] = {
        "version": version, "longest": config.max_model_len, "cached": config.prefix_caching
    }  # fmt: skip
    if post is not None:
        return sync_shares(model, engine, post, **how)
    assert engine is not None
    return sync(model, engine, **how)


def own_share(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The whole tensors that are this process's to send, on the CPU: every so manieth of them."""
    # A tied head is a second name of the embedding, which engines know too.
    own = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    names = {without_inner(name) for name in own}
    named = ((name, tensor) for name, tensor in whole_tensors(model) if name in names)
    mine = enumerate(named)
    return {
        name: tensor.detach().cpu()
        for number, (name, tensor) in mine
        if number % group.workers() == group.rank()
    }


def _union(own: dict[str, str]) -> dict[str, str]:
    found: list[dict[str, str]] = [{} for _ in range(group.workers())]
    distributed.all_gather_object(found, own)
    return {name: digest for share in found for name, digest in share.items()}


def without_shared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without a second name of the same memory: a tied head is its embedding, in engines as well."""
    seen, out = set[object](), dict[str, torch.Tensor]()
    for name, tensor in state.items():
        where = (tensor.data_ptr(), tensor.shape, tensor.dtype) if tensor.numel() else name
        if where not in seen:
            seen.add(where)
            out[name] = tensor
    return out


def prove(
    model: nn.Module,
    state: dict[str, torch.Tensor],
    *,
    version: int,
    longest: int,
    cached: bool = False,
) -> Proof:
    """Digests of the tensors, and how to get the model's own log-probabilities of the probes."""
    prompts = _probes(model, version=version, longest=longest, cached=cached)
    return Proof(digests_of(state), lambda: score(model, prompts))


def _probes(model: nn.Module, *, version: int, longest: int, cached: bool) -> list[list[int]]:
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator,union-attr]
    # One token more: an engine scores a prompt only together with a token after it.
    longest -= PROBE_REPLY_TOKENS + 1
    chunk = getattr(model.config, "chunk_size", None)
    return probe_ids(vocabulary, longest, version, chunk=chunk, cached=cached)


def score(model: nn.Module, prompts: list[list[int]]) -> list[Probe]:
    """The prompts with the log-probability of each token but the first, in one packed row."""
    numbers = [number for number, ids in enumerate(prompts) for _ in ids]
    row = torch.tensor([i for ids in prompts for i in ids])
    document = torch.tensor(numbers, dtype=torch.int32)
    with torch.no_grad():
        found, _ = inside(
            model,
            lambda m: model_logprobs(
                m, row, document, torch.arange(len(row) - 1), row[1:], Truncation()
            ),
        )
    values = found.tolist()
    out, start = [], 0
    for ids in prompts:
        out.append(Probe(ids, values[start : start + len(ids) - 1]))
        start += len(ids)
    return out
