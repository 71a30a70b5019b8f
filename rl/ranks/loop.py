"""Training on preferences with the trainer core: one process or many, TRL's order, schedule and loss."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.layers import context
from model.lora import load_trained_state, trained_state
from model.packed import autocast
from model.sharding.core import Core
from rl.dpo.pairs import Side
from rl.ranks.objectives import PairObjective
from rl.ranks.rows import PackedSides, PairRow, pack_sides, side_logps
from workbench.checkpoint import check_same_tensors, rng_state, set_rng_state
from workbench.distributed import group
from workbench.distributed.mesh import Mesh
from workbench.distributed.order import RowOrder
from workbench.validation import Validation

if TYPE_CHECKING:
    from workbench.strict_trainer import PairSection


class PairLoop:
    """Model, optimizer, rows and schedule of one training, and their common state.

    Every process makes one and calls the same methods. A microbatch is one process's (or that of those that
    share its rows) and never split: some losses look across it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[PairRow],
        objective: PairObjective,
        config: "PairSection",
        seed: int,
        mesh: Mesh | None,
    ) -> None:
        self.config, self.rows, self.objective = config, rows, objective
        self.order = RowOrder(
            len(rows), config.pairs_per_step, config.epochs, seed, shuffled=objective.shuffled
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, fused=True)
        self.core = Core(model, optimizer, mesh=mesh)
        self.step = 0
        self.validation = Validation()
        # Of the weights as they came: a resumed stage loads its own state afterwards.
        self.first = torch.zeros(len(rows), 2, dtype=torch.float64)
        if objective.refers:
            sides = [side for row in rows for side in (row.first, row.second)]
            self.first = self.values(sides).view(-1, 2)

    def values(self, sides: Sequence[Side]) -> Tensor:
        """What the model as it is says of each side [S], in every process, on the CPU."""
        return values_of(
            self.core, sides, self.objective.value, size=2 * self.config.microbatch_pairs,
            precision=self.config.precision,
        )  # fmt: skip

    def train_step(self) -> dict[str, float]:
        """One optimizer step: the mean over the step's microbatches of their mean losses."""
        numbers, size = self.order.step(self.step), self.config.microbatch_pairs
        parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        mine = _dealt(self.core, parts)
        anchors = [self._anchor(part) for part in mine]
        sums: dict[str, list[float]] = {}
        losses = [
            partial(self._loss, part, anchor, 1 / len(parts), sums)
            for part, anchor in zip(mine, anchors, strict=True)
        ]
        found = self.core.step(
            losses, lr=self._rate(), grad_clip=self.config.grad_clip, number=self.step + 1
        )
        self.step += 1
        return found | self._metrics(sums)

    def _rate(self) -> float:
        """transformers' constant_with_warmup, which begins at 0."""
        warmup = math.ceil(self.order.num_steps * self.config.warmup_share)
        return self.config.lr * min(1.0, self.step / max(warmup, 1)) if warmup else self.config.lr

    def _anchor(self, part: Sequence[int]) -> Tensor:
        if not self.objective.anchored:
            return torch.zeros(len(part))
        packed = pack_sides([self.rows[number].second for number in part])
        return _scored(self.core, packed, side_logps, self.config.precision)

    def _loss(
        self, part: Sequence[int], anchor: Tensor, share: float, sums: dict[str, list[float]]
    ) -> Tensor:
        """A microbatch's part of the step's loss. Of those that share its rows one counts it; all of them
        have its gradient."""
        model = self.core.model
        with autocast(model, self.config.precision):
            if not part:
                return self.objective.value(model, pack_sides([])).sum() * 0.0
            rows = [self.rows[number] for number in part]
            loss, metrics = self.objective.loss(model, rows, self.first[list(part)], anchor)
        loss = loss * share
        if not context.counts(model):
            return loss - loss.detach()
        for name, (value, count) in metrics.items():
            held = sums.setdefault(name, [0.0, 0.0])
            held[0], held[1] = held[0] + value, held[1] + count
        return loss

    def _metrics(self, sums: dict[str, list[float]]) -> dict[str, float]:
        """Means over all processes. Names are the same in all: one without microbatches adds nothing."""
        names = group.from_first(lambda: sorted(sums))
        found = group.totals(torch.tensor([sums.get(name, [0.0, 0.0]) for name in names]))
        means = {n: float(v / c) for n, (v, c) in zip(names, found, strict=True) if c}
        if "pair_margin" not in means and means.keys() >= {"chosen_reward", "rejected_reward"}:
            means["pair_margin"] = means["chosen_reward"] - means["rejected_reward"]
        return means

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise equal continuation needs."""
        return {
            "step": self.step,
            "model": trained_state(self.core.model),
            "optimizer": self.core.optimizer.state_dict(),
            **self.validation.state_dict(),
            "rng": rng_state(),
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of a state the weights alone. Raises: UserError where they are of another model."""
        check_same_tensors(trained_state(self.core.model), state["model"])
        load_trained_state(self.core.model, state["model"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        load_trained_state(self.core.model, state["model"])
        self.core.optimizer.load_state_dict(state["optimizer"])
        self.validation.load_state_dict(state)
        self.step = int(state["step"])
        set_rng_state(state["rng"])


def values_of(
    core: Core,
    sides: Sequence[Side],
    value: Callable[[Any, PackedSides], Tensor],
    *,
    size: int,
    precision: str,
) -> Tensor:
    """value(model, sides) [S] in every process, on the CPU; `size` sides in a forward pass."""
    places = range(len(sides))
    parts = [places[i : i + size] for i in range(0, len(sides), size)]
    out = torch.zeros(len(sides), dtype=torch.float64)
    for part in _dealt(core, parts):
        packed = pack_sides([sides[place] for place in part])
        found = _scored(core, packed, value, precision)
        if part and context.counts(core.model):
            out[list(part)] = found.double()
    return group.totals(out) if core.mesh is not None else out


def _dealt(core: Core, parts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """This process's microbatches, as many as any other's: some may be empty."""
    shares = 1 if core.mesh is None else core.mesh.data_size
    return core.share([*parts, *[[]] * (-len(parts) % shares)])


@torch.no_grad()
def _scored(
    core: Core, packed: PackedSides, value: Callable[[Any, PackedSides], Tensor], precision: str
) -> Tensor:
    with autocast(core.model, precision):
        return core.inside(lambda model: value(model, packed)).float().cpu()
