"""The probes of a weight sync, as the sender draws and scores them.

For an engine in bf16 a probe is worth asking only where rounding alone leaves it alone: tokens at which a small
model is torn between two continuations move by nats when the last bits of the stream do. So the sender scores
its probes once more as bf16 would round them, and draws again those that move.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from engine.sync_check import (
    PROBE_DRAWS,
    PROBE_REPLY_TOKENS,
    PROBES,
    Probe,
    is_informative,
    largest_difference,
    probe_ids,
)
from model.half import rounded_to_bf16, shaken_embeddings
from model.logprobs import Truncation, model_logprobs, row_logprobs
from model.sharding.shard import inside
from workbench.distributed import group

# Rounded passes of each probe: of the probes that rounding moves beyond the limit one pass misses some, and each
# of these finds most (docs/LOG.md).
_SHAKES = 8

Draw = Callable[[Sequence[int]], list[list[int]]]
"""Token ids of the probes, each by the number of its draw."""


def drawing(model: nn.Module, *, version: int, longest: int, cached: bool) -> Draw:
    """Of a model whose engine takes `longest` tokens of a prompt and its reply; see `probe_ids`."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator,union-attr]
    # One token more: an engine scores a prompt only together with a token after it.
    longest -= PROBE_REPLY_TOKENS + 1
    chunk = getattr(model.config, "chunk_size", None)
    return partial(probe_ids, vocabulary, longest, version, chunk=chunk, cached=cached)


def ask(model: nn.Module, draw: Draw, *, half: bool = False) -> list[Probe]:
    """Probes with the model's log-probabilities. half: for an engine in bf16, those that rounding leaves alone.

    Every process that has a share of the model must call it; all of them get the same tokens.
    """
    if not half:
        return scored(model, draw([0] * PROBES))
    draws, least = [0] * PROBES, [(float("inf"), 0)] * PROBES
    for _ in range(PROBE_DRAWS):
        probes, moved = _shaken(model, draw(draws))
        least = [
            min(old, new) for old, new in zip(least, zip(moved, draws, strict=True), strict=True)
        ]
        again = [not is_informative(by, probes[0].largest) for by in moved]
        # Cards may round apart: one process says which, or the others would score other rows.
        again, least = group.from_first(partial(_same, (again, least)))
        if not any(again):
            return probes
        draws = [number + more for number, more in zip(draws, again, strict=True)]
    return scored(model, draw([number for _, number in least]), half=True)


def _same(value: Any) -> Any:
    return value


def _shaken(model: nn.Module, prompts: list[list[int]]) -> tuple[list[Probe], list[float]]:
    """The prompts scored, and by how many nats rounding alone moves each at most, of some that begin apart."""
    probes = scored(model, prompts, half=True)
    with rounded_to_bf16(model), shaken_embeddings(model):
        rounded = scored(model, prompts * _SHAKES, half=True)  # one row
    moved = [
        max(largest_difference(one.logprobs, r.logprobs) for r in rounded[place :: len(prompts)])
        for place, one in enumerate(probes)
    ]
    return probes, moved


def scored(model: nn.Module, prompts: list[list[int]], *, half: bool = False) -> list[Probe]:
    """The prompts with the log-probability of each token but the first, in one packed row. half: for an
    engine in bf16, with the size of the largest logit among them."""
    numbers = [number for number, ids in enumerate(prompts) for _ in ids]
    row = torch.tensor([i for ids in prompts for i in ids])
    document = torch.tensor(numbers, dtype=torch.int32)

    def work(m: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if half:
            return row_logprobs(m, row, document)
        found, _ = model_logprobs(
            m, row, document, torch.arange(len(row) - 1), row[1:], Truncation()
        )
        return found, found.new_zeros(())

    with torch.no_grad():
        found, size = inside(model, work)  # type: ignore[arg-type]
    values, largest = found.tolist(), float(size)
    out, start = [], 0
    for ids in prompts:
        out.append(Probe(ids, values[start : start + len(ids) - 1], largest))
        start += len(ids)
    return out
