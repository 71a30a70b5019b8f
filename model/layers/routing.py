"""How evenly layers of experts spread their tokens: what each expert got, and a loss that evens it out.

The loss is Switch Transformer's (arXiv 2101.03961, eq. 4 to 6), of each layer and each document by itself: of a
row's documents together it would carry one's routing into another's gradient. It enters where an expert's
outputs are weighted, so every training has it, whatever computes its own loss.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from model.layers import experts
from workbench.errors import UserError


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


class Heard(NamedTuple):
    """What a layer did with some tokens of a document. counts [experts]; loss: times `tokens`."""

    layer: str
    counts: torch.Tensor
    loss: torch.Tensor
    tokens: int


Total = Callable[[torch.Tensor], torch.Tensor]


class Routing:
    """Listens to a model's routers while it trains. The loss of an optimizer step is the mean over layers and
    over all its tokens, each document's by itself, however they are split into passes and processes.

    coefficient: of the loss; 0: none. Raises: UserError where a loss is asked for and no layer has a router.
    """

    muted = False
    """Whether the pass at work is of nobody's tokens: it only keeps processes in step."""

    def __init__(self, model: nn.Module, *, coefficient: float = 0.0) -> None:
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, experts.ByDocument)]
        self.num_layers = len(layers)
        if coefficient and not layers:
            kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
            raise UserError(
                f"router_loss is {coefficient:g}, and this model ({kind}) has no layers of experts whose "
                "routers are known; leave it at 0"
            )
        self._coefficient, self._a_token = coefficient, 0.0
        # Appended to by threads: rows of a step may pass the model side by side.
        self._seen: list[Heard] = []
        for name, layer in layers:
            number = next((part for part in name.split(".") if part.isdigit()), name)
            router: Any = getattr(layer, "gate", None) or layer.router
            sigmoid = type(router).__name__.startswith("NemotronH")
            router.register_forward_hook(partial(self._hear, number, sigmoid))

    def begin(self, tokens: float) -> None:
        """A step of so many tokens, those of all processes. Where processes average their gradients: of one."""
        self._a_token = self._coefficient / max(self.num_layers, 1) / max(tokens, 1.0)

    def _hear(self, layer: str, sigmoid: bool, router: nn.Module, args: Any, output: Any) -> Any:
        if not (router.training and torch.is_grad_enabled()):  # a measurement
            return output
        routed = Routed.read(output)
        tokens = 0 if self.muted else len(routed.logits)
        counts = _counts(routed)
        loss = balance_loss(routed, sigmoid) * tokens
        self._seen.append(Heard(layer, counts if tokens else counts * 0, loss.detach(), tokens))
        if not (self._coefficient and tokens and loss.requires_grad):
            return output
        if not self._a_token:
            raise RuntimeError("a router's loss needs the tokens of its step: call begin()")
        return routed.output(_WithLoss.apply(routed.weights, loss * self._a_token))

    def metrics(self, total: Total = torch.Tensor.double) -> dict[str, float]:
        """Of each layer since the last call: its fullest expert's tokens over the mean, and the entropy of the
        experts' shares (1: even, 0: one has all); of all layers the loss, without its coefficient.

        total: the sum of every process's values; all of them then call this.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        counts: dict[str, torch.Tensor] = {}
        for part in seen:
            counts[part.layer] = counts.get(part.layer, 0) + part.counts.double()
        losses = sum(part.loss.double() for part in seen)
        tokens = torch.tensor(float(sum(part.tokens for part in seen)), dtype=torch.float64)
        flat = torch.cat([torch.stack([losses.cpu(), tokens]), *(c.cpu() for c in counts.values())])
        (loss, tokens), *each = total(flat).split([2, *map(len, counts.values())])
        # Both sums: a layer that is computed again for its backward pass is heard twice.
        out = {"router_loss": float(loss / tokens)}
        for layer, count in zip(counts, each, strict=True):
            share = count / count.sum()
            entropy = float(torch.special.entr(share).sum()) / math.log(len(share))
            out[f"experts/{layer}_peak"] = float(share.max()) * len(share)
            out[f"experts/{layer}_entropy"] = entropy
        return out
