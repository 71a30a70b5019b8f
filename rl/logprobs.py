"""Log-probabilities of reply tokens under the distribution that sampling draws from.

Temperature first, then min-p, top-k and top-p, in that order, which is vLLM's. A policy that samples from a
truncated distribution is trained as that policy; taking its samples for the whole distribution's would be
biased without a sign.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rl.loss import PolicyBatch


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
    wide = logits if logits.dtype == torch.float64 else logits.float()
    scaled = wide / truncation.temperature
    index = target[:, None]
    if not truncation.cuts:
        supported = torch.ones_like(target, dtype=torch.bool)
    else:
        with torch.no_grad():
            keep = kept_tokens(scaled.detach(), truncation)
            supported = keep.gather(1, index)[:, 0]
            keep.scatter_(1, index, True)
        scaled = scaled.masked_fill(~keep, -torch.inf)
    chosen = scaled.gather(1, index)[:, 0]
    return chosen - scaled.logsumexp(-1), supported


def reply_logprobs(
    model: nn.Module, batch: PolicyBatch, truncation: Truncation
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Log-probability of each reply token under the truncated policy, and whether that policy can sample
    it. Only the positions of replies reach the output layer."""
    device = next(model.parameters()).device
    logits = model(
        input_ids=batch.input_ids[None].to(device),
        seq_idx=batch.document[None].to(device),
        use_cache=False,
        logits_to_keep=batch.position.to(device),
    ).logits[0]
    return token_logprobs(logits, batch.target.to(device), truncation)
