"""The policy's weights into the engine, with the proof that the engine then samples from them.

A policy of adapters sends those alone: the engine merges them into the checkpoint that both began with, or, over
a base in 4 bits, into the files of what the bits stand for (`write_base`). The proof has the digests of that base
too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from engine.config import EngineConfig
from engine.protocol import Engine
from engine.shares import Post
from engine.sync_check import Mark, Proof, SyncReport, digests_of, tensor_digest
from model.hybrid import save_model
from model.lora import (
    adapted_shapes,
    adapter_tensors,
    base_storage,
    base_tensors,
    has_adapters,
    merged_wide,
)
from model.sharding.converted import all_as_in_files, is_otherwise
from model.sharding.core import whole_tensors
from model.sharding.shard import whole
from model.weights import canonical
from rl.probes import ask, drawing
from workbench.distributed import group


class Synced(NamedTuple):
    """What the engine's checks found (None in an engine that makes none), and the bytes that were sent."""

    report: SyncReport | None
    sent_bytes: int


def sync(
    model: nn.Module,
    engine: Engine,
    *,
    version: int,
    longest: int,
    cached: bool = False,
    half: bool = False,
    leave: Callable[[], None] | None = None,
) -> Synced:
    """Give the engine every tensor of the policy, under its Hugging Face name, or its adapters alone.

    `longest`: tokens of a prompt and its reply that the engine takes. `cached`: it keeps prompts
    (`EngineConfig.prefix_caching`). `half`: it computes in bf16, and its probes may differ by more where the
    policy's logits are large. `leave`: the model must leave its card before the engine wakes on it, so it
    scores the probes first. Raises: SyncError where what the engine holds or computes afterwards is not the
    policy.
    """
    state = sent_state(model)
    proof = prove(model, state, version=version, longest=longest, cached=cached, half=half)
    tensors = [(name, tensor.detach().cpu()) for name, tensor in state.items()]
    sent_bytes = _num_bytes(state)
    del state  # it has the card's memory
    if leave is not None:
        scored = proof.score()
        proof = replace(proof, score=lambda: scored)
        leave()
    report = engine.update_weights(tensors, version=version, proof=proof)
    return Synced(report, sent_bytes)


def sync_shares(
    model: PreTrainedModel,
    engine: Engine | None,
    post: Post,
    *,
    version: int,
    longest: int,
    cached: bool = False,
    half: bool = False,
) -> Synced:
    """`sync` of a model whose parameters several processes hold in shards. engine: the first one's.

    Each tensor that is sent is gathered by all and kept by one of them, which digests it and puts it into
    the object store: what arrives is to the bit what one process would send. Every process must call it;
    all of them get the report. Raises: SyncError in the first process.
    """
    own = own_share(model)
    post.send(group.rank(), own.items())
    digests, base = _union(digests_of(own)), base_marks(model)
    group.barrier()
    sent_bytes = int(group.total(_num_bytes(own)))
    draw = drawing(model, version=version, longest=longest, cached=cached)
    if engine is None:
        ask(model, draw, half=half)  # with the first one, which scores while its engines load
        return group.from_first(lambda: Synced(None, sent_bytes))
    proof = Proof(digests, lambda: ask(model, draw, half=half), base)
    report = engine.update_weights(post.collect(), version=version, proof=proof)  # type: ignore[arg-type]
    return group.from_first(lambda: Synced(report, sent_bytes))


def publish(
    model: PreTrainedModel,
    engine: Engine | None,
    post: Post | None,
    *,
    version: int,
    config: EngineConfig,
    leave: Callable[[], None] | None = None,
) -> Synced:
    """The weights to the engine, by `sync_shares` where processes share them (post), else by `sync`, which
    `leave` is for.

    Every process must call it. Raises: SyncError in the first.
    """
    how: dict[str, Any] = {
        "version": version, "longest": config.max_model_len, "cached": config.prefix_caching,
        "half": config.dtype == "bfloat16",
    }  # fmt: skip
    if post is not None:
        return sync_shares(model, engine, post, **how)
    assert engine is not None
    return sync(model, engine, **how, leave=leave)


def sends_adapters(model: nn.Module) -> bool:
    """Whether they go without their base: the engine merges them into its files, so each adapted weight must be a
    tensor of those. Frozen ones may be there in other parts, as routed experts are."""
    return has_adapters(model) and not any(
        is_otherwise(model, name, torch.empty(shape, device="meta"))  # type: ignore[arg-type]
        for name, shape in adapted_shapes(model).items()
    )


def write_base(model: PreTrainedModel, folder: Path, tokenizer: Any = None) -> Path:
    """The files of what a frozen base stands for, where they are on no disk (4 bits): for an engine to load, once,
    before adapters come. A folder that is there is left: each sync proves that it is this base."""
    return folder if folder.is_dir() else save_model(model, folder, tokenizer)


def sent_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a sync sends of a model that one process holds."""
    if sends_adapters(model):
        return dict(adapter_tensors(model))
    state = without_shared(dict(merged_wide(model)) if has_adapters(model) else model.state_dict())
    return dict(all_as_in_files(model, state.items()))  # type: ignore[arg-type]


def own_share(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The whole tensors that are this process's to send, on the CPU: every so manieth of them."""
    return {name: tensor.detach().cpu() for name, tensor in _dealt(_sent(model))}


def _sent(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """What is sent of a sharded model, one whole tensor after the other; every process must take all."""
    if sends_adapters(model):
        return adapter_tensors(model, whole)
    if has_adapters(model):
        return all_as_in_files(model, merged_wide(model, whole))
    # A tied head is a second name of the embedding, which engines know too.
    own = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    named = ((name, tensor) for name, tensor in whole_tensors(model) if name in own)
    return all_as_in_files(model, named)


def _dealt(tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """This process's of them: every so manieth."""
    for number, pair in enumerate(tensors):
        if number % group.workers() == group.rank():
            yield pair


# Of each model: where its base lay and how often it had been written to, and the marks of that base.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], dict[str, Mark]]] = (
    WeakKeyDictionary()
)


def base_marks(model: nn.Module) -> dict[str, Mark] | None:
    """Marks of all that the model's adapters stand on, as its files have it; None where it is sent itself.

    They are worked out once, since a base is frozen, and again where somebody has written to it all the
    same. Every process that has a share of the model must call it.
    """
    if not sends_adapters(model):
        return None
    written = [_written(tensor) for tensor in base_storage(model)]
    known = _KNOWN.get(model)
    if group.any_of(known is None or known[0] != written):
        tensors = ((name, whole(tensor)) for name, tensor in base_tensors(model))
        named = all_as_in_files(model, tensors)  # type: ignore[arg-type]
        marks = {canonical(name): _mark(tensor) for name, tensor in _dealt(named)}
        known = _KNOWN[model] = (written, _union(marks))
    assert known is not None
    return known[1]


@contextmanager
def carried(model: nn.Module) -> Iterator[None]:
    """Meanwhile the model's tensors move, bits unchanged, to other memory: the marks of its base stay known."""
    known = _KNOWN.get(model)
    stands = known is not None and known[0] == [_written(t) for t in base_storage(model)]
    yield
    if known is not None and stands:
        _KNOWN[model] = ([_written(t) for t in base_storage(model)], known[1])


def _written(tensor: torch.Tensor) -> tuple[int, int]:
    held = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return held.data_ptr(), held._version


def _mark(tensor: torch.Tensor) -> Mark:
    return Mark(str(tensor.dtype).removeprefix("torch."), tensor_digest(tensor))


def _union(own: dict[str, Any]) -> dict[str, Any]:
    """The entries of all processes."""
    if group.workers() == 1:
        return own
    found: list[dict[str, Any]] = [{} for _ in range(group.workers())]
    distributed.all_gather_object(found, own)
    return {name: value for share in found for name, value in share.items()}


def _num_bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


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
    half: bool = False,
) -> Proof:
    """Digests of the tensors that are sent and marks of a base that is not, and how to get the model's own
    log-probabilities of the probes."""
    draw = drawing(model, version=version, longest=longest, cached=cached)
    return Proof(digests_of(state), lambda: ask(model, draw, half=half), base_marks(model))
