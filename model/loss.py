"""Cross-entropy of an output layer without ever holding all its logits.

The logits of a few hundred tokens are made, turned into their own gradient in place and used up
while they are in the cache. The gradient is worked out in the forward pass, so nothing is
recomputed and memory is that of one slice, not tokens x vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch

from model.sizes import CPU_LOGITS, MOST_LOGITS, card_logits

IGNORED = -100


def logit_slices(
    tokens: int,
    vocabulary: int,
    device: torch.device,
    *,
    on_cpu: int | None = None,
    tables: int = 1,
) -> Iterator[slice]:
    """Slices over `tokens` whose logits [slice, vocabulary] are held at once. on_cpu: how many a CPU
    holds; None: those of a loss. tables: on a card that many times as much is made of each logit as in a loss."""
    if device.type == "cpu":
        logits = CPU_LOGITS if on_cpu is None else on_cpu
    else:
        logits = _card_logits(device) // tables
    step = max(1, logits // vocabulary)
    for first in range(0, tokens, step):
        yield slice(first, min(first + step, tokens))


def _card_logits(device: torch.device) -> int:
    if device.type != "cuda":
        return MOST_LOGITS
    return card_logits(torch.cuda.get_device_properties(device).total_memory)


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Sum (not mean) of -log softmax(hidden @ weight.T)[label] over labels that are not -100.

    hidden [..., D], weight [V, D], labels [...] already shifted to the token to predict. Under
    autocast the products are in its type; the softmax is always in fp32. Divide by the number
    of valid tokens of the whole batch, over all accumulation steps and processes.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, labels, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        flat, matrix = hidden.reshape(-1, hidden.shape[-1]).to(dtype), weight.to(dtype)
        targets = labels.reshape(-1)
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(flat) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for rows in logit_slices(len(flat), len(weight), flat.device):
            valid = targets[rows] != IGNORED
            picked = targets[rows].clamp(min=0)[:, None]
            logits = torch.mm(flat[rows], matrix.T).float()
            chosen = logits.gather(1, picked).squeeze(1)
            logits -= logits.amax(1, keepdim=True)
            top = chosen - logits.gather(1, picked).squeeze(1)
            probabilities = logits.exp_()
            mass = probabilities.sum(1)
            # A selection by `valid` would make a GPU wait for its size.
            losses = (mass.log() + top - chosen).where(valid, 0.0)
            total += losses.sum(dtype=torch.float64)
            if grad_hidden is None and grad_weight is None:
                del logits, probabilities  # before the next slice is made
                continue
            probabilities *= (valid / mass)[:, None]
            probabilities.scatter_add_(1, picked, -valid.float()[:, None])
            slice_grad = probabilities.to(dtype)
            del logits, probabilities
            if grad_hidden is not None:
                torch.mm(slice_grad, matrix, out=grad_hidden[rows])
            if grad_weight is not None:
                add_product(grad_weight, slice_grad.T, flat[rows])
            del slice_grad
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.like = (hidden.shape, hidden.dtype, weight.dtype)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        shape, hidden_dtype, weight_dtype = ctx.like
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * grads[0]).view(shape).to(hidden_dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grads[0]).to(weight_dtype)
        return grad_hidden, grad_weight, None, None


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, where total may be of a wider type than the factors.

    A GPU adds up in the wider type; a CPU has no such product and rounds to the factors' type first.
    """
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.is_cuda:
        total += torch.mm(left, right, out_dtype=total.dtype)
    else:
        total += left @ right
