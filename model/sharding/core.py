"""One trainer core: a model, its optimizer and a step, on one process or many.

Used by pretraining, distillation and SFT, and made for every other loop on packed rows. A loop calls,
in every process and in the same order:

    core = Core(model, optimizer, mesh=mesh, threads=threads)     # mesh None: one process
    rows = core.share(rows_of_the_whole_step)                     # this process's part
    core.step([lambda: ... / count_of_the_whole_step], lr=..., grad_clip=..., number=...)
    found = core.inside(lambda model: ...)                        # without gradients, or with

- A loss is a sum over rows divided by a count of the whole step (`group.total` adds up counts that the
  processes do not share), so gradients are only added, never averaged.
- A loss calls the model inside `core.inside` (backward does that for its losses): embeddings and output
  layer are then whole tensors, and layers gather themselves.
- All processes run as many losses as each other, each a forward pass: pad with an empty row.
- With `mesh.context` a row [B, T] is given whole and what comes out of the layers is this process's slice
  [B, T/n]: `model.layers.context.local` cuts labels and masks alike.
- `whole_tensors(core.model)` gathers one tensor after the other; `workbench.distributed.state` saves and
  loads a training's state, `model.sharding.files` reads and writes Hugging Face checkpoints: no process
  ever holds the model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from model.head import linear_head
from model.lora import merged_tensors
from model.parallel import GradientWorkers, Loss
from model.sharding.shard import inside, whole
from workbench.distributed import group
from workbench.distributed.mesh import Mesh

T = TypeVar("T")


class Core:
    """A model and its optimizer, and how a step's gradients come together."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        *,
        mesh: Mesh | None = None,
        threads: int = 1,
    ) -> None:
        self.model, self.optimizer, self.mesh = model, optimizer, mesh
        linear_head(model)  # looked at here, outside of any pass
        self._workers = None
        if mesh is None:
            self._workers = GradientWorkers(list(model.parameters()), threads)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a step's items (rows, tensors along their first axis)."""
        return items if self.mesh is None else self.mesh.share(items)

    def inside(self, work: Callable[[PreTrainedModel], T]) -> T:
        """work(model) with whole embeddings and output layer; see model.sharding.shard."""
        return inside(self.model, work)

    def backward(self, losses: Sequence[Loss]) -> float:
        """Fill the gradients with those of the losses' sum over all processes; returns that sum."""
        if self._workers is not None:
            return self._workers.run(losses)
        total = 0.0
        for make in losses:
            loss = self.inside(partial(_without_model, make))
            # Each backward pass adds its shard of the sum: whole gradients are never kept.
            loss.backward()
            total += float(loss.detach())
        return group.total(total)

    def step(
        self, losses: Sequence[Loss], *, lr: float, grad_clip: float, number: int
    ) -> dict[str, float]:
        """One optimizer step on the losses' sum over all processes: loss, lr and the gradients' norm.

        number: of the step, for the message. Raises: FloatingPointError before the weights move where loss or
        norm is not finite.
        """
        for group_of in self.optimizer.param_groups:
            group_of["lr"] = lr
        loss = self.backward(losses)
        norm = self.clip(grad_clip, loss=loss, where=f" at step {number}")
        self.update()
        return {"loss": loss, "lr": lr, "grad_norm": norm}

    def clip(self, largest: float, *, loss: float | None = None, where: str = "") -> float:
        """Scale the gradients so that their norm is at most `largest`. Returns it as it was.

        where: for the message, as in " at step 3". Raises: FloatingPointError where the norm, or the loss, is
        not finite: before the optimizer's step, so that a bad batch cannot reach the weights.
        """
        norm = float(whole(nn.utils.clip_grad_norm_(self.model.parameters(), largest)))
        if not math.isfinite(norm + (loss or 0.0)):
            what = "" if loss is None else f"loss {loss} or "
            raise FloatingPointError(
                f"{what}gradient norm {norm} is not finite{where}; lower lr or look at the rows of this step"
            )
        return norm

    def update(self) -> None:
        """The optimizer's step; the gradients are forgotten."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _without_model(make: Loss, _: PreTrainedModel) -> torch.Tensor:
    return make()


def whole_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole value of every tensor of the state dict, one after the other, adapters merged.

    Every process must take every one; only one is held at a time.
    """
    return merged_tensors(model, whole)


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether the parameters are shards."""
    return any(isinstance(p, DTensor) for p in model.parameters())
