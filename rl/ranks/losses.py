"""The losses of preference training as functions of log-probabilities: TRL's, which is the tests' oracle.

A microbatch is a unit: `aot` sorts within it, `sft` counts its tokens, and KTO takes its zero from it. So a
microbatch is never split between processes, and the same microbatches give the same loss in any layout.

Legend: B pairs or replies; a log-ratio is log p(policy) - log p(reference) of a whole side.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid


class DpoSettings(NamedTuple):
    """names, weights: the losses that are added up. tau: discopop's temperature."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    beta: float
    smoothing: float = 0.0
    tau: float = 0.05


class Pairs(NamedTuple):
    """Log-probabilities [B] of both sides under policy and reference, and their tokens with loss."""

    chosen: Float[Tensor, " B"]
    rejected: Float[Tensor, " B"]
    ref_chosen: Float[Tensor, " B"]
    ref_rejected: Float[Tensor, " B"]
    chosen_tokens: Float[Tensor, " B"]
    rejected_tokens: Float[Tensor, " B"]

    @property
    def up(self) -> Float[Tensor, " B"]:
        """Log-ratio of the chosen side."""
        return self.chosen - self.ref_chosen

    @property
    def down(self) -> Float[Tensor, " B"]:
        """Log-ratio of the rejected side."""
        return self.rejected - self.ref_rejected

    @property
    def gap(self) -> Float[Tensor, " B"]:
        """How much further the policy moved towards the chosen side."""
        return self.up - self.down

    @property
    def gap_by_token(self) -> Float[Tensor, " B"]:
        """The same of means over each side's tokens."""
        chosen, rejected = self.chosen_tokens.clamp(min=1), self.rejected_tokens.clamp(min=1)
        return self.up / chosen - self.down / rejected


def dpo_loss(pairs: Pairs, settings: DpoSettings) -> Float[Tensor, ""]:
    """The weighted sum of the named losses, each its mean over the microbatch's pairs."""
    parts = [
        weight * DPO_LOSSES[name](pairs, settings).mean()
        for name, weight in zip(settings.names, settings.weights, strict=True)
    ]
    return torch.stack(parts).sum()


def kto_loss(
    ratio: Float[Tensor, " B"],
    good: Bool[Tensor, " B"],
    zero: Float[Tensor, ""] | None,
    *,
    beta: float,
    good_weight: float,
    bad_weight: float,
) -> Float[Tensor, ""]:
    """KTO, arXiv 2402.01306, eq. 7, and without a zero APO-zero on single replies (2408.06266).

    ratio: the replies' log-ratios. zero: the drift on mismatched replies, at least 0.
    """
    ahead = ratio if zero is None else ratio - zero
    sign = torch.where(good, 1.0, -1.0)
    weight = torch.where(good, good_weight, bad_weight)
    return (weight * (1 - torch.sigmoid(beta * sign * ahead))).mean()


def pair_score_loss(
    better: Float[Tensor, " B"],
    worse: Float[Tensor, " B"],
    margin: Float[Tensor, " B"],
    centre: float | None,
) -> Float[Tensor, ""]:
    """Bradley-Terry with a margin (Llama 2, arXiv 2307.09288, eq. 2); centre: weight of the squared sum of
    both scores, which keeps them around 0."""
    loss = -logsigmoid(better - worse - margin).mean()
    return loss if centre is None else loss + centre * (better + worse).square().mean()


def _smoothed(logits: Tensor, share: float) -> Tensor:
    """Cross entropy of a pair that is the wrong way round with probability `share`."""
    return -(1 - share) * logsigmoid(logits) - share * logsigmoid(-logits)


def _sigmoid(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2305.18290, eq. 7."""
    return -logsigmoid(s.beta * p.gap)


def _hinge(p: Pairs, s: DpoSettings) -> Tensor:
    """SLiC, arXiv 2305.10425."""
    return (1 - s.beta * p.gap).relu()


def _ipo(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2310.12036, eq. 17, on means over tokens as TRL has it."""
    return (p.gap_by_token - 0.5 / s.beta).square()


def _exo_pair(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2402.00856, eq. 16: KL of the policy's choice between two sides from the smoothed label."""
    right, wrong = math.log1p(-s.smoothing), math.log(s.smoothing)
    own, other = logsigmoid(s.beta * p.gap), logsigmoid(-s.beta * p.gap)
    return own.exp() * (own - right) + other.exp() * (other - wrong)


def _nca_pair(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2402.05369."""
    up, down = s.beta * p.up, s.beta * p.down
    return -logsigmoid(up) - 0.5 * (logsigmoid(-up) + logsigmoid(-down))


def _robust(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2403.00409, eq. 9."""
    logits, share = s.beta * p.gap, s.smoothing
    right, wrong = logsigmoid(logits), logsigmoid(-logits)
    return (share * wrong - (1 - share) * right) / (1 - 2 * share)


def _bco_pair(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2404.04656, without its shift."""
    return -logsigmoid(s.beta * p.up) - logsigmoid(-s.beta * p.down)


def _sppo_hard(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2405.00675, eq. 4.7, where the chosen side always wins."""
    return (p.up - 0.5 / s.beta).square() + (p.down + 0.5 / s.beta).square()


def _aot(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2406.05882, paired: policy's and reference's gaps compared by rank."""
    own, reference = (p.chosen - p.rejected).sort().values, p.ref_chosen - p.ref_rejected
    return _smoothed(s.beta * (own - reference.sort().values), s.smoothing)


def _aot_unpaired(p: Pairs, s: DpoSettings) -> Tensor:
    """The same paper, unpaired: log-ratios of both sides compared by rank."""
    return _smoothed(s.beta * (p.up.sort().values - p.down.sort().values), s.smoothing)


def _apo_zero(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2408.06266, eq. 7."""
    return torch.sigmoid(-s.beta * p.up) + torch.sigmoid(s.beta * p.down)


def _apo_down(p: Pairs, s: DpoSettings) -> Tensor:
    """The same, eq. 8."""
    return torch.sigmoid(s.beta * p.up) + torch.sigmoid(-s.beta * p.gap)


def _discopop(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2406.08414, eq. 5."""
    logits = s.beta * p.gap
    mixed = torch.sigmoid(logits / s.tau)
    return -logsigmoid(logits) * (1 - mixed) + torch.exp(-logits) * mixed


def _sft(p: Pairs, s: DpoSettings) -> Tensor:
    """The chosen sides' cross entropy, a mean over the microbatch's tokens."""
    return -p.chosen.sum()[None] / p.chosen_tokens.sum()


def _sigmoid_norm(p: Pairs, s: DpoSettings) -> Tensor:
    """arXiv 2411.15124 (Tulu 3): DPO on means over tokens."""
    return -logsigmoid(s.beta * p.gap_by_token)


DPO_LOSSES: dict[str, Callable[[Pairs, DpoSettings], Tensor]] = {
    "sigmoid": _sigmoid, "hinge": _hinge, "ipo": _ipo, "exo_pair": _exo_pair, "nca_pair": _nca_pair,
    "robust": _robust, "bco_pair": _bco_pair, "sppo_hard": _sppo_hard, "aot": _aot,
    "aot_unpaired": _aot_unpaired, "apo_zero": _apo_zero, "apo_down": _apo_down,
    "discopop": _discopop, "sft": _sft, "sigmoid_norm": _sigmoid_norm,
}  # fmt: skip
