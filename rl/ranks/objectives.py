"""What a microbatch of preferences is worth: DPO and its variants, KTO, reward models."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rl.ranks.losses import (
    DPO_LOSSES,
    DpoSettings,
    Pairs,
    dpo_loss,
    kto_loss,
    pair_score_loss,
)
from rl.ranks.rows import PackedSides, PairRow, pack_sides, side_logps, side_scores
from workbench.errors import UserError

Metrics = dict[str, tuple[float, float]]
"""Name -> a sum and its count: a step's metric is the sum over its microbatches by their count."""


class PairObjective(Protocol):
    """refers: the sides' values under the first weights are needed. anchored: so are, before each step, those
    of the second sides under the present ones. shuffled: every epoch has another order of the rows."""

    refers: bool
    anchored: bool
    shuffled: bool

    @property
    def value(self) -> Callable[[Any, PackedSides], Tensor]:
        """What the model says of each side."""
        ...

    def loss(
        self, model: Any, rows: Sequence[PairRow], first: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The microbatch's mean loss. first: values [B, 2] under the first weights; anchor: [B]."""
        ...


class Dpo:
    """Pairs of a chosen and a rejected side."""

    refers, anchored, shuffled = True, False, True
    value = staticmethod(side_logps)

    def __init__(self, settings: DpoSettings) -> None:
        self.settings = settings

    def loss(
        self, model: Any, rows: Sequence[PairRow], first: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Metrics]:
        """See PairObjective."""
        packed = pack_sides([*(r.first for r in rows), *(r.second for r in rows)])
        values = side_logps(model, packed)
        first = first.to(values)
        tokens = packed.counts().to(values)
        chosen, rejected = values.chunk(2)
        chosen_tokens, rejected_tokens = tokens.chunk(2)
        pairs = Pairs(chosen, rejected, first[:, 0], first[:, 1], chosen_tokens, rejected_tokens)
        loss, beta = dpo_loss(pairs, self.settings), self.settings.beta
        up, down = beta * pairs.up.detach(), beta * pairs.down.detach()
        found = {
            "pair_accuracy": (up > down).float(),
            "pair_margin": up - down,
            "chosen_reward": up,
            "rejected_reward": down,
            "chosen_logp": pairs.chosen.detach(),
            "rejected_logp": pairs.rejected.detach(),
        }
        return loss, {name: (float(value.sum()), len(rows)) for name, value in found.items()}


class Kto:
    """Single replies, each good or bad; a row's second side is the reply that it is mismatched with."""

    refers, shuffled = True, False
    value = staticmethod(side_logps)

    def __init__(
        self, *, beta: float, good_weight: float, bad_weight: float, anchored: bool
    ) -> None:
        self.beta, self.good_weight, self.bad_weight = beta, good_weight, bad_weight
        self.anchored = anchored

    def loss(
        self, model: Any, rows: Sequence[PairRow], first: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Metrics]:
        """See PairObjective."""
        values = side_logps(model, pack_sides([row.first for row in rows]))
        first = first.to(values)
        good = torch.tensor([row.about > 0 for row in rows], device=values.device)
        zero = None
        if self.anchored:
            zero = (anchor.to(values) - first[:, 1]).mean().clamp(min=0)
        ratio = values - first[:, 0]
        loss = kto_loss(
            ratio, good, zero,
            beta=self.beta, good_weight=self.good_weight, bad_weight=self.bad_weight,
        )  # fmt: skip
        found: Metrics = {"kl": (float(zero or 0.0), 1)}
        for name, these in (("chosen", good), ("rejected", ~good)):
            count = int(these.sum())
            found[f"{name}_reward"] = (float((self.beta * ratio.detach())[these].sum()), count)
            found[f"{name}_logp"] = (float(values.detach()[these].sum()), count)
        return loss, found


class PairScores:
    """A reward model's head on pairs; a row's `about` is its margin. centre: see `pair_score_loss`."""

    refers, anchored, shuffled = False, False, True
    value = staticmethod(side_scores)

    def __init__(self, centre: float | None) -> None:
        self.centre = centre

    def loss(
        self, model: Any, rows: Sequence[PairRow], first: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Metrics]:
        """See PairObjective."""
        packed = pack_sides([*(r.first for r in rows), *(r.second for r in rows)])
        better, worse = side_scores(model, packed).chunk(2)
        margin = torch.tensor([row.about for row in rows]).to(better)
        found = {"pair_accuracy": (better > worse).float(), "pair_margin": (better - worse)}
        loss = pair_score_loss(better, worse, margin, self.centre)
        return loss, {n: (float(v.detach().sum()), len(rows)) for n, v in found.items()}


_DPO_OPTIONS = ("loss_type", "loss_weights", "label_smoothing", "discopop_tau")


def dpo_of(args: Any, given: dict[str, Any]) -> Dpo:
    """The objective of TRL's DPOConfig. given: the recipe's `trl`. Raises: UserError."""
    _only(given, _DPO_OPTIONS)
    names = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    for name in names:
        if name not in DPO_LOSSES:
            raise UserError(f"loss {name!r} with fsdp is not there; choose {', '.join(DPO_LOSSES)}")
    smoothing = float(args.label_smoothing)
    if "exo_pair" in names and not smoothing:
        raise UserError("loss exo_pair needs a label_smoothing above 0 (its paper takes 0.001)")
    weights = args.loss_weights or [1.0] * len(names)
    tau = float(args.discopop_tau)
    return Dpo(DpoSettings(tuple(names), tuple(weights), float(args.beta), smoothing, tau))


def kto_of(args: Any, given: dict[str, Any]) -> Kto:
    """The objective of TRL's KTOConfig. Raises: UserError."""
    _only(given, ())
    return Kto(
        beta=args.beta,
        good_weight=args.desirable_weight,
        bad_weight=args.undesirable_weight,
        anchored=args.loss_type == "kto",
    )


def scores_of(args: Any, given: dict[str, Any]) -> PairScores:
    """The objective of TRL's RewardConfig. Raises: UserError."""
    _only(given, ("center_rewards_coefficient",))
    return PairScores(args.center_rewards_coefficient)


def _only(given: dict[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            allowed = ", ".join(known) or "nothing"
            raise UserError(
                f"trl.{name} with strategy fsdp: the core reads {allowed} of TRL's options; leave it out, or "
                "train in one process (strategy: none)"
            )
