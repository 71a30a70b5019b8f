"""One policy update: gradients of packed rows, summed over micro-batches and trainers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import distributed, nn

from rl.logprobs import PackedRow, reply_logprobs
from rl.loss import LossSettings, PolicyBatch, policy_loss
from rl.truncation import Truncation


class Totals(NamedTuple):
    """What the whole update counts, over all rows and trainers: it normalises the loss."""

    tokens: int
    sequences: int


@dataclass(frozen=True)
class Scored:
    """A row with what older policies say of its reply tokens [T_r].

    old: under the weights at the start of the step, -inf outside that policy's support; None: the
    weights have not moved since. reference: under the frozen reference, where the loss asks for it.
    """

    row: PackedRow
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None


def totals_of(rows: Sequence[PackedRow], *, masked: int = 0) -> Totals:
    """The counts of some rows, and of `masked` replies beside them that carry no loss."""
    sequences = sum(len(r.rollouts) for r in rows) + masked
    return Totals(sum(int(r.mask.sum()) for r in rows), sequences)


def frozen_logprobs(
    model: nn.Module, rows: Sequence[PackedRow], truncation: Truncation
) -> list[torch.Tensor]:
    """[T_r] for each row under the model as it is, -inf where it cannot sample the token."""
    found = []
    with torch.no_grad():
        for row in rows:
            values, supported = reply_logprobs(model, row, truncation)
            found.append(torch.where(supported, values, -torch.inf))
    return found


def accumulate(
    model: nn.Module,
    scored: Sequence[Scored],
    settings: LossSettings,
    truncation: Truncation,
    *,
    totals: Totals,
    version: int,
) -> dict[str, float]:
    """Add the gradient of these rows to the model's; returns the loss and the metrics' sums.

    `version` is the policy version of the step: only replies sampled wholly by it show how far
    trainer and engine differ in numerics.
    """
    sums: dict[str, float] = {}
    for part in scored:
        row = part.row
        new, supported = reply_logprobs(model, row, truncation)
        old = part.old
        if old is None:
            old = torch.where(supported, new.detach(), -torch.inf)
        device = new.device
        sequence = row.sequence.to(device)
        stale = torch.zeros(len(row.rollouts), dtype=torch.bool, device=device)
        stale[sequence[(row.version != version).to(device)]] = True
        batch = PolicyBatch(
            new, old, row.engine.to(new), row.advantage.to(new), row.mask.to(device), sequence,
            len(row.rollouts), part.reference, ~stale[sequence],
        )  # fmt: skip
        loss, metrics = policy_loss(
            batch, settings, total_tokens=totals.tokens, total_sequences=totals.sequences
        )
        loss.backward()
        metrics["loss"] = float(loss.detach())
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def sum_gradients(model: nn.Module, sums: dict[str, float]) -> dict[str, float]:
    """Add up gradients and sums over data-parallel trainers; one process alone keeps its own.

    The loss is normalised by the totals of all trainers, so the sum is the whole batch's gradient.
    """
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return sums
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter).clone()
    # A trainer without a row of this update has no sums, and still takes part.
    known: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(known, list(sums))
    names = sorted({name for of_one in known for name in of_one})
    values = torch.tensor(
        [sums.get(name, 0.0) for name in names], dtype=torch.float64, device=flat.device
    )
    distributed.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))
