"""A self-test of document isolation on the model at hand, run before anything is packed."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from model.fp8.linear import scales_are_a_tokens_own, settings
from model.packed import autocast

# Documents of the test row: lengths that cross chunks and the convolution's window, and a
# document of one token.
_LENGTHS = (37, 1, 2, 29, 3)
# Largest difference allowed between packed and alone, relative to the largest logit.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
_FP8_TOLERANCE = 5e-3


class IsolationError(RuntimeError):
    """Documents of one row can see each other; training on packed rows would be wrong."""


def check_isolation(model: PreTrainedModel, precision: Literal["fp32", "bf16"]) -> None:
    """Raise IsolationError unless packed documents are isolated in this model, where it lies.

    precision: what the stage computes in. bf16 is autocast, as in training: on a card other kernels take
    such numbers, and a proof in fp32 would be of a path that training does not take.

    Three proofs on one row of 72 random tokens: packed logits equal each document alone;
    changing one document changes no bit of another; the gradient of one document's loss is
    exactly zero at every other document's embeddings, and not zero at its own. Weights,
    gradients, mode and the global random state are left as they were. Under a second for a
    small model. A model that refuses seq_idx raises its own ValueError.
    """
    was_training = model.training
    model.eval()
    try:
        _check(model, precision)
    finally:
        model.train(was_training)


def check_scales(model: PreTrainedModel, device: torch.device) -> None:
    """Raise IsolationError where products in FP8 give tokens a common scale.

    Ids that change move a common scale of powers of two rarely; a token that is much larger always does.
    """
    for how in settings(model):
        if not scales_are_a_tokens_own(how, device):
            raise IsolationError(
                f"tokens share FP8 scales (fp8.granularity {how.granularity}), so documents of a row do too"
            )


def _check(model: PreTrainedModel, precision: str) -> None:
    device = model.device
    check_scales(model, device)

    def logits(**inputs: Any) -> torch.Tensor:
        with autocast(model, precision):
            out: torch.Tensor = model(**inputs, use_cache=False).logits
        return out

    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, sum(_LENGTHS)), generator=generator).to(device)
    numbers = torch.arange(len(_LENGTHS)).repeat_interleave(torch.tensor(_LENGTHS))
    seq_idx = numbers.int()[None].to(device)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    packed = logits(inputs_embeds=embeddings, seq_idx=seq_idx)
    allowed = _allowed(model, precision)
    for document in range(len(_LENGTHS)):
        mine = seq_idx[0] == document
        _compare_alone(logits, ids[:, mine], packed[:, mine].detach(), document, allowed)
        (grad,) = torch.autograd.grad(
            packed[:, mine].float().square().sum(), embeddings, retain_graph=True
        )
        if bool(grad[:, ~mine].any()):
            raise IsolationError(f"the gradient of document {document} reaches other documents")
        if not bool(grad[:, mine].any()):
            raise IsolationError(f"the gradient of document {document} is zero at its own tokens")
        other = torch.where(mine, (ids + 1) % vocabulary, ids)
        with torch.no_grad():
            changed = logits(input_ids=other, seq_idx=seq_idx)
            again = logits(input_ids=ids, seq_idx=seq_idx)
        if not torch.equal(changed[:, ~mine], again[:, ~mine]):
            raise IsolationError(f"changing document {document} changes the logits of others")


def _allowed(model: PreTrainedModel, precision: str) -> float:
    """Largest difference, packed from alone, relative to the largest logit."""
    largest = _TOLERANCE[torch.bfloat16 if precision == "bf16" else model.dtype]
    # Sums in another order may move a value over a border of FP8.
    return max(largest, _FP8_TOLERANCE) if settings(model) else largest


def _compare_alone(
    logits: Callable[..., torch.Tensor],
    ids: torch.Tensor,
    packed: torch.Tensor,
    document: int,
    allowed: float,
) -> None:
    with torch.no_grad():
        alone = logits(input_ids=ids)
    largest = float((packed - alone).abs().max() / alone.abs().max())
    if not largest <= allowed:
        raise IsolationError(
            f"document {document} packed differs from itself alone by {largest:.1e} of the largest "
            f"logit; allowed {allowed:.0e}"
        )
