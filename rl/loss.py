"""The policy loss: one pure function of a batch. Shapes: T packed tokens, N tokens of replies, S replies.

Three policies appear in it. The engine's sampled the tokens, `old` is the trainer's at the start of
the step, and `new` is the one being trained. The correction carries engine to old, the clipped ratio
carries old to new.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# exp() of a log-ratio beyond this is an overflow, not a policy: same bound as common practice.
_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class PolicyBatch:
    """A packed row of whole replies, each behind the ids that it was sampled from: what the model reads
    [T] and what the loss reads of the reply tokens [N]. rl.update makes it; nothing else holds tokens
    between sampling and the loss.
    """

    input_ids: Int[Tensor, " T"]
    document: Int[Tensor, " T"]
    """Number of the document that a token belongs to (int32); the model sees no other document."""
    position: Int[Tensor, " N"]
    """Place in the row of the token before each reply token: its logits say how likely the token is."""
    target: Int[Tensor, " N"]
    """The reply token."""
    sequence: Int[Tensor, " N"]
    """Its reply, or episode, in [0, num_sequences)."""
    engine: Float[Tensor, " N"]
    """Its log-probability as the engine reported it."""
    advantage: Float[Tensor, " N"]
    """Of its reply."""
    mask: Bool[Tensor, " N"]
    """True on tokens that the policy chose; not on tool results, forced tokens or replies without loss."""
    version: Int[Tensor, " N"]
    """Policy version that sampled it."""
    num_sequences: int
    old: Float[Tensor, " N"] | None = None
    """Log-probability under the trainer's weights at the start of the step, -inf where truncation (top-p,
    top-k, min-p) leaves the token out of that policy's support. None: the weights have not moved since."""
    reference: Float[Tensor, " N"] | None = None
    """Log-probability under the frozen reference, where the loss has a KL term."""
    fresh: Bool[Tensor, " N"] | None = None
    """True where the engine sampled the whole reply with the very weights of `old`; None: all."""

    def like(self, new: Float[Tensor, " N"]) -> "PolicyBatch":
        """What the loss reads, on the device of `new` and in its type."""
        moved = {name: getattr(self, name).to(new) for name in ("engine", "advantage")} | {
            name: getattr(self, name).to(new.device) for name in ("sequence", "mask", "version")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class LossSettings:
    """See rl.config.LossConfig; max_tokens is the constant aggregate's normaliser per reply."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_most: float | None = None
    surrogate: Literal["clip", "cispo"] = "clip"
    ratio: Literal["token", "sequence"] = "token"
    aggregate: Literal["token", "sequence", "sequence_sum", "constant"] = "token"
    correction: Literal["none", "token", "sequence"] = "token"
    correction_outside: Literal["truncate", "mask"] = "truncate"
    correction_low: float = 0.0
    correction_high: float = 2.0
    kl_coefficient: float = 0.0
    kl_weighted: bool = True
    max_tokens: int = 1
    function: Callable[[Tensor, PolicyBatch], Tensor] | None = None


def policy_loss(
    new: Float[Tensor, " N"],
    batch: PolicyBatch,
    settings: LossSettings,
    *,
    total_tokens: int,
    total_sequences: int,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of a micro-batch, normalised by the whole step's counts, and its metrics. new: the reply
    tokens' log-probabilities under the policy being trained (has gradient).

    Per token -min(r A, clip(r) A) plus the KL term, both times the importance weight of the engine's
    numerics and age. Summing micro-batches gives the same gradient as one batch, however it is split.
    """
    supported = _old(batch) > -torch.inf
    old = torch.where(supported, _old(batch), new).detach()
    counted = batch.mask & supported
    ratio = _ratio(new, batch, old, counted, settings)
    weight = correction_weight(batch, settings)
    if settings.function is not None:
        # Outside old's support a token counts for nothing: what it says there must stay finite.
        per_token = settings.function(new, replace(batch, old=old))
        outside = torch.zeros_like(counted)
    else:
        surrogate, outside = _surrogate(new, ratio, batch, settings)
        per_token = -surrogate
    if settings.kl_coefficient:
        per_token = per_token + settings.kl_coefficient * kl_term(new, batch, old, settings)
    per_token = torch.where(counted, per_token * weight, 0.0)
    loss = _aggregate(per_token, batch, settings, total_tokens, total_sequences)
    with torch.no_grad():
        metrics = _metrics(batch, old, supported, outside, weight)
    return loss, metrics


def _old(batch: PolicyBatch) -> Float[Tensor, " N"]:
    if batch.old is None:
        raise ValueError("the loss needs the log-probabilities of the policy before the step (old)")
    return batch.old


def _ratio(
    new: Float[Tensor, " N"],
    batch: PolicyBatch,
    old: Float[Tensor, " N"],
    counted: Bool[Tensor, " N"],
    settings: LossSettings,
) -> Float[Tensor, " N"]:
    """new / old of each token, or its geometric mean over the token's reply (GSPO).

    A token outside old's support (not `counted`) must not reach the others through that mean.
    """
    log_ratio = _token_log_ratio(new, old)
    if settings.ratio == "sequence":
        sums = _sum_by(torch.where(counted, log_ratio, 0.0), batch)
        log_ratio = (sums / _lengths(batch, log_ratio.dtype))[batch.sequence]
    return log_ratio.exp()


def _token_log_ratio(new: Float[Tensor, " N"], old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    return (new - old).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def correction_weight(batch: PolicyBatch, settings: LossSettings) -> Float[Tensor, " N"]:
    """old / engine [N], truncated to the bounds or 0 outside them; carries no gradient.

    A token outside old's support has weight 0: that policy would never have sampled it.
    """
    gap = (_old(batch) - batch.engine).detach()
    supported = _old(batch) > -torch.inf
    if settings.correction == "none":
        return torch.where(supported, 1.0, 0.0).to(gap.dtype)
    if settings.correction == "sequence":
        gap = _sum_by(torch.where(batch.mask, gap, 0.0), batch)[batch.sequence]
    weight = gap.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    low, high = settings.correction_low, settings.correction_high
    if settings.correction_outside == "truncate":
        weight = weight.clamp(low, high)
    else:
        weight = torch.where((weight < low) | (weight > high), 0.0, weight)
    # After the bounds: a lower bound must not bring such a token back.
    return torch.where(supported & (gap > -torch.inf), weight, 0.0)


def _surrogate(
    new: Float[Tensor, " N"],
    ratio: Float[Tensor, " N"],
    batch: PolicyBatch,
    settings: LossSettings,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """The objective of each token, and where the ratio left its bounds."""
    high = 1 + settings.clip_high
    if settings.surrogate == "cispo":
        kept = ratio.clamp(max=high).detach()
        return kept * batch.advantage * new, ratio.detach() > high
    clipped = ratio.clamp(1 - settings.clip_low, high)
    bounded = ratio if settings.clip_most is None else ratio.clamp(max=settings.clip_most)
    surrogate = torch.minimum(bounded * batch.advantage, clipped * batch.advantage)
    return surrogate, (ratio != clipped).detach()


def kl_term(
    new: Float[Tensor, " N"],
    batch: PolicyBatch,
    old: Float[Tensor, " N"],
    settings: LossSettings,
) -> Float[Tensor, " N"]:
    """[N] (new / old) k3, before the correction's weight; without the ratio where not `kl_weighted`.

    k3 = r - 1 - log r of r = reference / new (Schulman 2020). With the weight w = old / engine, which
    carries no gradient, the mean over tokens y that the engine sampled behind one prefix is
        E_engine[w (new / old) k3] = sum_y new(y) (r(y) - 1 - log r(y)) = KL(new || reference),
    so the gradient of that mean is the gradient of the KL, however old the engine is (DeepSeek-V3.2,
    arXiv 2512.02556, has it with old for engine). Bounds of w that cut or mask bias both terms alike.
    The ratio is the token's own, with GSPO too: a reply's mean ratio is not an importance weight.
    Without the ratio the gradient's mean, where new is old, is that of KL(reference || new).
    """
    if batch.reference is None:
        raise ValueError("a loss with a KL term needs the reference's log-probabilities")
    gap = (batch.reference - new).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    kl = gap.exp() - gap - 1
    return kl * _token_log_ratio(new, old).exp() if settings.kl_weighted else kl


def _aggregate(
    per_token: Float[Tensor, " N"],
    batch: PolicyBatch,
    settings: LossSettings,
    total_tokens: int,
    total_sequences: int,
) -> Float[Tensor, ""]:
    sequences = max(total_sequences, 1)
    if settings.aggregate == "token":
        return per_token.sum() / max(total_tokens, 1)
    if settings.aggregate == "sequence":
        return (_sum_by(per_token, batch) / _lengths(batch, per_token.dtype)).sum() / sequences
    if settings.aggregate == "sequence_sum":
        return per_token.sum() / sequences
    return per_token.sum() / (sequences * settings.max_tokens)


def _metrics(
    batch: PolicyBatch,
    old: Float[Tensor, " N"],
    supported: Bool[Tensor, " N"],
    outside: Bool[Tensor, " N"],
    weight: Float[Tensor, " N"],
) -> dict[str, float]:
    """Sums over tokens, so that micro-batches add up."""
    mask = batch.mask
    fresh = mask & supported
    if batch.fresh is not None:
        fresh = fresh & batch.fresh
    gap = (_old(batch) - batch.engine).masked_fill(~fresh, 0.0).double()
    # k3 estimate of KL(engine || trainer): unbiased and never negative (Schulman 2020).
    return {
        "mismatch_kl_sum": float((gap.expm1() - gap).sum()),
        "fresh_tokens": float(fresh.sum()),
        "clipped_sum": float((outside & mask).sum()),
        "unsupported_sum": float((mask & ~supported).sum()),
        "entropy_sum": float(-old[mask & supported].sum()),
        "weight_sum": float(weight[mask].sum()),
        "tokens": float(mask.sum()),
    }


def _lengths(batch: PolicyBatch, dtype: torch.dtype) -> Float[Tensor, " S"]:
    """[S] tokens of each reply that count, at least 1."""
    return _sum_by(batch.mask.to(dtype), batch).clamp(min=1)


def _sum_by(values: Float[Tensor, " N"], batch: PolicyBatch) -> Float[Tensor, " S"]:
    out = torch.zeros(batch.num_sequences, dtype=values.dtype, device=values.device)
    return out.index_add(0, batch.sequence, values)
