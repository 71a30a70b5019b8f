"""How evenly layers of experts spread their tokens: what each expert got, and a loss that evens it out.

The loss is Switch Transformer's (arXiv 2101.03961, eq. 4 to 6), of each layer and each document by itself: of a
row's documents together it would carry one's routing into another's gradient. It enters where an expert's
outputs are weighted, so every training has it, whatever computes its own loss.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from model.layers import experts


class Routed(NamedTuple):
    """What a router said of some tokens. weights [n, k], logits [n, experts], chosen [n, k] of experts' numbers.

    chosen_first: the order in which the family returns them.
    """

    weights: torch.Tensor
    logits: torch.Tensor
    chosen: torch.Tensor
    chosen_first: bool

    @classmethod
    def read(cls, output: Any) -> "Routed":
        """Of a router's output: (chosen, weights, logits) in Granite, the other way round elsewhere."""
        first, weights, last = output
        chosen_first = not first.is_floating_point()
        logits, chosen = (last, first) if chosen_first else (first, last)
        return cls(weights, logits, chosen, chosen_first)

    def output(self, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The router's output with these weights."""
        given = (self.logits, weights, self.chosen)
        return given[::-1] if self.chosen_first else given


class _WithLoss(torch.autograd.Function):
    """The weights as they are, and the loss's gradient beside theirs."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grads[0], torch.ones((), device=grads[0].device)


def balance_loss(routed: Routed, sigmoid: bool) -> torch.Tensor:
    """experts x sum over experts of (choices a token) x (mean probability): k where both are even (scalar).

    sigmoid: the family's scores are sigmoids (NemotronH, as DeepSeek-V3's); their shares are the probabilities.
    """
    logits = routed.logits.float()
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    shares = scores / scores.sum(-1, keepdim=True) if sigmoid else scores
    number = logits.shape[-1]
    chosen = _counts(routed) / len(logits)
    return number * (chosen * shares.mean(0)).sum()


def _counts(routed: Routed) -> torch.Tensor:
    """Tokens of each expert [experts], fp32."""
    number = routed.logits.shape[-1]
    return torch.bincount(routed.chosen.reshape(-1), minlength=number).float()


class Routing:
    """Listens to a model's routers while it trains.

    coefficient: of the loss; 0: none. passes: forward passes in one optimizer step, whose mean the loss is.
    """

    def __init__(self, model: nn.Module, *, coefficient: float = 0.0, passes: int = 1) -> None:
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, experts.ByDocument)]
        self.num_layers = len(layers)
        self._factor = coefficient / passes / max(self.num_layers, 1)
        # Appended to by threads: rows of a step may pass the model side by side.
        self._seen: list[tuple[str, torch.Tensor, torch.Tensor, float]] = []
        for name, layer in layers:
            number = next((part for part in name.split(".") if part.isdigit()), name)
            router: Any = getattr(layer, "gate", None) or layer.router
            sigmoid = type(router).__name__.startswith("NemotronH")
            router.register_forward_hook(partial(self._hear, number, sigmoid))

    def _hear(self, layer: str, sigmoid: bool, router: nn.Module, args: Any, output: Any) -> Any:
        if not (router.training and torch.is_grad_enabled()):  # a measurement
            return output
        routed = Routed.read(output)
        share = len(routed.logits) / experts.tokens_at_work()
        loss = balance_loss(routed, sigmoid) * share
        self._seen.append((layer, _counts(routed), loss.detach(), share))
        if not self._factor or not loss.requires_grad:
            return output
        return routed.output(_WithLoss.apply(routed.weights, loss * self._factor))

    def metrics(self) -> dict[str, float]:
        """Of each layer since the last call: its fullest expert's tokens over the mean, and the entropy of the
        experts' shares (1: even, 0: one has all); of all layers the loss, without its coefficient."""
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        counts: dict[str, torch.Tensor] = {}
        for layer, count, _, _ in seen:
            counts[layer] = counts.get(layer, torch.zeros_like(count)) + count
        # Both sums: a layer that is computed again for its backward pass is heard twice.
        out = {"router_loss": sum(float(part[2]) for part in seen) / sum(p[3] for p in seen)}
        for layer, count in counts.items():
            share = count / count.sum()
            entropy = float(torch.special.entr(share).sum()) / math.log(len(share))
            out[f"experts/{layer}_peak"] = float(share.max()) * len(share)
            out[f"experts/{layer}_entropy"] = entropy
        return out
