"""The policy loss: one pure function of tensors. Shapes: T packed tokens, S sequences."""

from dataclasses import dataclass
from typing import Literal

import torch

# exp() of a log-ratio beyond this is an overflow, not a policy: same bound as common practice.
_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class PolicyBatch:
    """Aligned per-token tensors [T] of a batch of replies.

    new: log-probability under the policy being trained (has gradient). old: under the trainer's
    weights that sampled. engine: as the engine reported it. advantage: of the token's reply.
    mask: True on tokens the policy chose (not prompt, tool output or forced). sequence: index of the
    reply in [0, num_sequences).
    """

    new: torch.Tensor
    old: torch.Tensor
    engine: torch.Tensor
    advantage: torch.Tensor
    mask: torch.Tensor
    sequence: torch.Tensor
    num_sequences: int


@dataclass(frozen=True)
class LossSettings:
    """See rl.config.LossConfig; max_tokens is the constant aggregate's normaliser per reply."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio: Literal["token", "sequence"] = "token"
    aggregate: Literal["token", "sequence", "constant"] = "token"
    correction_cap: float = 2.0
    max_tokens: int = 1


def policy_loss(
    batch: PolicyBatch, settings: LossSettings, *, total_tokens: int, total_sequences: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a micro-batch, normalised by the whole step's counts, and its metrics.

    -min(r A, clip(r, 1 - low, 1 + high) A) per token, times the truncated importance weight
    min(old / engine, cap) that corrects for the engine having sampled with other numerics. Summing
    micro-batches gives the same gradient as one batch, however it is split.
    """
    mask = batch.mask
    log_ratio = (batch.new - batch.old.detach()).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    lengths = _sum_by(mask.to(log_ratio.dtype), batch)
    if settings.ratio == "sequence":
        mean = _sum_by(torch.where(mask, log_ratio, 0.0), batch) / lengths.clamp(min=1)
        log_ratio = mean[batch.sequence]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    gap = (batch.old - batch.engine).detach()
    weight = gap.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp().clamp(max=settings.correction_cap)
    surrogate = torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
    per_token = torch.where(mask, -surrogate * weight, 0.0)
    if settings.aggregate == "token":
        loss = per_token.sum() / max(total_tokens, 1)
    elif settings.aggregate == "sequence":
        loss = (_sum_by(per_token, batch) / lengths.clamp(min=1)).sum() / max(total_sequences, 1)
    else:
        loss = per_token.sum() / (max(total_sequences, 1) * settings.max_tokens)
    with torch.no_grad():
        # k3 estimate of KL(engine || trainer): unbiased and never negative (Schulman 2020).
        kl = gap.exp() - 1 - gap
        outside = (ratio != clipped) & mask
        metrics = {
            "mismatch_kl_sum": float(torch.where(mask, kl, 0.0).sum()),
            "clipped_sum": float(outside.sum()),
            "tokens": float(mask.sum()),
        }
    return loss, metrics


def _sum_by(values: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
    out = torch.zeros(batch.num_sequences, dtype=values.dtype, device=values.device)
    return out.index_add(0, batch.sequence, values)
