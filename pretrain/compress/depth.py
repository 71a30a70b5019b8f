"""Which layers to drop: iterative, by the error of the logits (arXiv 2508.14444, section 4).

Of the layers that are left each is dropped in turn; the one whose absence moves the logits least
away from the ORIGINAL model's goes, and everything is measured again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from model.hybrid import Hybrid
from model.loss import logit_slices
from model.packed import Rows, last_hidden


@dataclass(frozen=True)
class Removal:
    """A layer that went. layer: its number in the original model. mse: of all logits, without it.

    errors: candidate -> the same had that layer gone instead.
    Example: Removal(layer=5, mse=0.013, errors={0: 4.1, 5: 0.013})
    """

    layer: int
    mse: float
    errors: dict[int, float] = field(default_factory=dict)


def remove_layers(
    model: Hybrid,
    batches: Sequence[Rows],
    *,
    count: int,
    candidates: Iterable[int],
    removed: Sequence[int] = (),
    tick: Callable[[], None] = lambda: None,
    on_removal: Callable[[Removal], None] = lambda removal: None,
) -> list[int]:
    """Numbers of the layers that stay after `count` removals, those in `removed` among them.

    batches: calibration rows. candidates: layers that may go. tick is called once a forward pass
    (it may raise). Of equal errors the later layer goes. The model itself is left as it is.
    """
    layers = len(model.base_model.layers)
    kept = [i for i in range(layers) if i not in removed]
    allowed = set(candidates) - set(removed)
    for _ in range(count - len(removed)):
        errors = removal_errors(model, batches, kept, sorted(allowed), tick=tick)
        worst = min(errors, key=lambda i: (errors[i], -i))
        kept.remove(worst)
        allowed.discard(worst)
        on_removal(Removal(worst, errors[worst], errors))
    return kept


@torch.no_grad()
def removal_errors(
    model: Hybrid,
    batches: Sequence[Rows],
    kept: Sequence[int],
    candidates: Sequence[int],
    *,
    tick: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Candidate -> mean squared error of the logits without it, against the whole model's.

    The mean is over all tokens and the vocabulary. What lies before a candidate is computed once.
    """
    base = model.base_model
    sums = dict.fromkeys(candidates, 0.0)
    tokens = 0
    for rows in batches:
        original = last_hidden(model, rows)
        with _only(base, kept) as blocks:
            trace = _Trace(blocks)
            last_hidden(model, rows)
            trace.close()
        tick()
        for i in candidates:
            final = base.norm_f(trace.without(kept.index(i)))
            sums[i] += _logit_error(original - final, model.get_output_embeddings())
            tick()
        tokens += rows.input_ids.numel()
    vocabulary = len(model.get_output_embeddings().weight)
    return {i: total / (tokens * vocabulary) for i, total in sums.items()}


class _Trace:
    """What each block was called with in one forward pass."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = blocks
        self._calls: list[tuple[torch.Tensor, dict[str, Any]]] = []
        self._hooks = [b.register_forward_pre_hook(self._keep, with_kwargs=True) for b in blocks]

    def _keep(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append((args[0], kwargs))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def without(self, place: int) -> torch.Tensor:
        """The residual stream behind all blocks but the one at `place` [B, T, H]."""
        stream = self._calls[place][0]
        for block, (_, kwargs) in zip(
            self.blocks[place + 1 :], self._calls[place + 1 :], strict=True
        ):
            stream = block(stream, **kwargs)
        return stream


@contextmanager
def _only(base: Any, kept: Sequence[int]) -> Any:
    """The model with these of its layers alone, inside the block."""
    whole = base.layers
    base.layers = nn.ModuleList([whole[i] for i in kept])
    try:
        yield list(base.layers)
    finally:
        base.layers = whole


def _logit_error(difference: torch.Tensor, head: nn.Linear) -> float:
    """Sum of squares of head(difference), a slice of tokens at a time: logits are linear in it."""
    flat = difference.reshape(-1, difference.shape[-1])
    parts = [
        torch.mm(flat[part], head.weight.T.to(flat.dtype)).square().sum(dtype=torch.float64)
        for part in logit_slices(len(flat), len(head.weight), flat.device)
    ]
    return float(torch.stack(parts).sum())
