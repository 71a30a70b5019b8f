"""Log-probabilities of tokens under the distribution that sampling draws from, in slices of the vocabulary's
logits: memory is that of one slice, however many tokens and however large the vocabulary.

Temperature first, then min-p, top-k and top-p, in that order, which is vLLM's. A policy that samples from a
truncated distribution is trained as that policy; taking its samples for the whole distribution's would be
biased without a sign. GRPO and its reference, preferences in several processes, held-out preferences and the
probes of a weight sync score by this; a training of DPO or KTO in one process by TRL's own tiles of 32,768
words, which are as flat (tests/unit/rl/test_preference_memory.py).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.head import linear_head, must_not_share
from model.layers import context
from model.loss import add_product, logit_slices
from model.sizes import CPU_SCORED_LOGITS

# What top-p and the like sort and count of each logit, in tables of a loss.
_CUT_TABLES = 4


class Truncation(NamedTuple):
    """Temperature and cuts of sampling. Example: Truncation(temperature=0.8, top_p=0.95)"""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether some tokens can never be sampled."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def kept_tokens(scaled: Float[Tensor, "N V"], truncation: Truncation) -> Bool[Tensor, "N V"]:
    """Logits after temperature -> True on tokens that can be sampled."""
    keep = torch.ones_like(scaled, dtype=torch.bool)
    if truncation.min_p > 0:
        highest = scaled.amax(-1, keepdim=True)
        keep &= scaled >= highest + torch.tensor(truncation.min_p, dtype=scaled.dtype).log()
    if 0 < truncation.top_k < scaled.shape[-1]:
        left = scaled.masked_fill(~keep, -torch.inf)
        keep &= left >= left.topk(truncation.top_k, dim=-1).values[:, -1:]
    if truncation.top_p < 1:
        ordered, places = scaled.masked_fill(~keep, -torch.inf).sort(dim=-1)
        cut = ordered.softmax(-1).cumsum(-1) <= 1 - truncation.top_p
        cut[:, -1] = False
        keep &= ~torch.zeros_like(cut).scatter_(1, places, cut)
    return keep


def token_logprobs(
    logits: Float[Tensor, "N V"], target: Int[Tensor, " N"], truncation: Truncation
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Log-probability of each token, and whether it can be sampled.

    At least fp32. A token outside the support gets the (finite) log-probability it would have as one
    more kept token, so that nothing becomes NaN; the caller leaves it out.
    """
    scaled, supported = _scaled(logits, target, truncation)
    chosen = scaled.gather(1, target[:, None])[:, 0]
    return chosen - scaled.logsumexp(-1), supported


def _scaled(
    logits: Float[Tensor, "N V"], target: Int[Tensor, " N"], truncation: Truncation
) -> tuple[Float[Tensor, "N V"], Bool[Tensor, " N"]]:
    """Logits after temperature, -inf on tokens that cannot be sampled and are not the target."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return _cut(wide / truncation.temperature, target, truncation)


def _sliced(
    rows: Float[Tensor, "N D"],
    matrix: Float[Tensor, "V D"],
    target: Int[Tensor, " N"],
    truncation: Truncation,
) -> tuple[Float[Tensor, "N V"], Bool[Tensor, " N"]]:
    """`_scaled` of rows @ matrix.T, which nobody else has: one table of them is held, not three."""
    made = rows @ matrix.T
    wide = made if made.dtype == torch.float64 else made.float()
    del made
    return _cut(wide.div_(truncation.temperature), target, truncation)


def _cut(
    scaled: Float[Tensor, "N V"], target: Int[Tensor, " N"], truncation: Truncation
) -> tuple[Float[Tensor, "N V"], Bool[Tensor, " N"]]:
    if not truncation.cuts:
        return scaled, torch.ones_like(target, dtype=torch.bool)
    index = target[:, None]
    with torch.no_grad():
        keep = kept_tokens(scaled.detach(), truncation)
        supported = keep.gather(1, index)[:, 0]
        keep.scatter_(1, index, True)
    return scaled.masked_fill(~keep, -torch.inf), supported


def linear_logprobs(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    target: Int[Tensor, " N"],
    truncation: Truncation,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """`token_logprobs` of the logits hidden @ weight.T, which are never all held at once: at most 8 bytes for
    each of a slice (`model.sizes.SCORED_BYTES`), more where the truncation cuts, of smaller slices on a card.

    Backward makes each slice's logits again, unless one slice is all there is. Under autocast the products
    are in its type, and what follows is in fp32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        values, supported = _LinearLogprobs.apply(hidden, weight, target, truncation, dtype)
    return values, supported


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        truncation: Truncation,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        flat, matrix = hidden.to(dtype), weight.to(dtype)
        slices = list(
            logit_slices(
                len(flat), len(weight), flat.device, on_cpu=CPU_SCORED_LOGITS,
                tables=_CUT_TABLES if truncation.cuts else 1,
            )
        )  # fmt: skip
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        values = torch.zeros(len(flat), dtype=wide, device=flat.device)
        supported = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        kept = None
        for rows in slices:
            scaled, supported[rows] = _sliced(flat[rows], matrix, target[rows], truncation)
            mass = scaled.logsumexp(-1)
            values[rows] = scaled.gather(1, target[rows][:, None])[:, 0] - mass
            if len(slices) == 1 and any(ctx.needs_input_grad):
                kept = scaled.sub_(mass[:, None]).exp_()
            del scaled  # before the next slice is made
        ctx.save_for_backward(hidden, weight, target, kept)
        ctx.how = (truncation, dtype, slices)
        ctx.mark_non_differentiable(supported)
        return values, supported

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        hidden, weight, target, kept = ctx.saved_tensors
        truncation, dtype, slices = ctx.how
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        flat, matrix = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.zeros_like(flat) if want_hidden else None
        # Of the transposed matrix: what autograd makes of hidden @ weight.T, to the bit.
        grad_weight = torch.zeros(
            weight.shape[::-1], dtype=torch.promote_types(weight.dtype, torch.float32),
            device=weight.device,
        ) if want_weight else None  # fmt: skip
        for rows in slices:
            index, by_token = target[rows][:, None], grads[0][rows][:, None]
            probabilities = kept
            if probabilities is None:
                probabilities, _ = _sliced(flat[rows], matrix, target[rows], truncation)
                probabilities.sub_(probabilities.logsumexp(-1, keepdim=True)).exp_()
            # d log p(target) / d logits = (one_hot(target) - p) / temperature
            probabilities.mul_(-by_token).scatter_add_(1, index, by_token)
            slope = probabilities.div_(truncation.temperature).to(dtype)
            del probabilities
            if grad_hidden is not None:
                torch.mm(slope, matrix, out=grad_hidden[rows])
            if grad_weight is not None:
                add_product(grad_weight, flat[rows].T, slope)
            del slope
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.T.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def model_logprobs(
    model: Any,
    input_ids: Int[Tensor, " T"],
    document: Int[Tensor, " T"],
    position: Int[Tensor, " N"],
    target: Int[Tensor, " N"],
    truncation: Truncation,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Log-probability of each target under the truncated policy, and whether that policy can sample it.

    input_ids: a packed row. document: the number of the document that each token is of. position: the
    token that stands before each target; no other one reaches the output layer. Where processes share
    the row each of them gets all values (model.layers.context). Raises: UserError where they cannot.
    """
    read = _read_at(model, input_ids, document, position)
    return _scored(model, read, target, truncation)


@torch.no_grad()
def row_logprobs(
    model: Any, input_ids: Int[Tensor, " T"], document: Int[Tensor, " T"]
) -> tuple[Float[Tensor, " T-1"], Tensor]:
    """Of a packed row, from one forward pass: the log-probability of each token but the first, and the size of the
    largest logit anywhere (a scalar, fp32); see `model_logprobs`."""
    read = _read_at(model, input_ids, document, torch.arange(len(input_ids)))
    values, _ = _scored(model, read, input_ids.roll(-1), Truncation())
    return values[:-1], _largest_logit(model, read)


class _Read(NamedTuple):
    """What the output layer reads at some positions [n, D], its matrix [V, D], and which of the positions are
    this process's; without a plain matrix the logits [N, V], None and all of them."""

    rows: Tensor
    matrix: Tensor | None
    mine: Tensor


def _scored(
    model: Any, read: _Read, target: Int[Tensor, " N"], truncation: Truncation
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    rows, matrix, mine = read
    target = target.to(rows.device)
    if matrix is None:
        return token_logprobs(rows, target, truncation)
    values, supported = linear_logprobs(rows, matrix, target[mine], truncation)
    values = context.put_together(model, values, mine)
    return values, context.put_together(model, supported.to(values.dtype), mine) > 0


def _largest_logit(model: Any, read: _Read) -> Tensor:
    rows, matrix, mine = read
    if matrix is None:
        return rows.abs().amax().float()
    slices = logit_slices(len(rows), len(matrix), rows.device, on_cpu=CPU_SCORED_LOGITS)
    sizes = [(rows[some].to(matrix.dtype) @ matrix.T).abs().amax(-1).float() for some in slices]
    own = torch.cat(sizes) if sizes else rows.new_zeros(0, dtype=torch.float32)
    return context.put_together(model, own, mine).amax()


def _read_at(
    model: Any,
    input_ids: Int[Tensor, " T"],
    document: Int[Tensor, " T"],
    position: Int[Tensor, " N"],
) -> _Read:
    device = next(model.parameters()).device
    input_ids, document = context.padded(model, input_ids, document)
    inputs = {
        "input_ids": input_ids[None].to(device),
        "seq_idx": document[None].to(device),
        "use_cache": False,
    }
    position = position.to(device)
    head = linear_head(model)
    if head is None:
        must_not_share(model)
        logits = model(**inputs, logits_to_keep=position).logits[0]
        return _Read(logits, None, torch.ones_like(position, dtype=torch.bool))
    hidden = model.base_model(**inputs).last_hidden_state[0]
    own, mine = context.at_places(model, hidden, position)
    return _Read(head.read(own), head.weight, mine)
