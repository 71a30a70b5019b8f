"""The policy's weights into the engine, with the proof that the engine then samples from them."""

import torch
from torch import nn

from engine.protocol import Engine
from engine.sync_check import (
    PROBE_REPLY_TOKENS,
    Probe,
    Proof,
    SyncReport,
    digests_of,
    probe_ids,
)
from model.logprobs import Truncation, model_logprobs
from model.lora import has_adapters, merged_state


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
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    # One token more: an engine scores a prompt only together with a token after it.
    longest -= PROBE_REPLY_TOKENS + 1
    chunk = getattr(model.config, "chunk_size", None)
    prompts = probe_ids(vocabulary, longest, version, chunk=chunk, cached=cached)
    return Proof(digests_of(state), lambda: score(model, prompts))


def score(model: nn.Module, prompts: list[list[int]]) -> list[Probe]:
    """The prompts with the log-probability of each token but the first, in one packed row."""
    numbers = [number for number, ids in enumerate(prompts) for _ in ids]
    row = torch.tensor([i for ids in prompts for i in ids])
    document = torch.tensor(numbers, dtype=torch.int32)
    with torch.no_grad():
        found, _ = model_logprobs(
            model, row, document, torch.arange(len(row) - 1), row[1:], Truncation()
        )
    values = found.tolist()
    out, start = [], 0
    for ids in prompts:
        out.append(Probe(ids, values[start : start + len(ids) - 1]))
        start += len(ids)
    return out
