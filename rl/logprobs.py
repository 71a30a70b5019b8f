"""Packed log-probabilities: whole rollouts in rows, documents isolated, nothing padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rl.rollout import Rollout
from rl.truncation import Truncation, token_logprobs


@dataclass(frozen=True)
class PackedRow:
    """Rollouts one after the other. T tokens, of which T_r are of replies, R rollouts.

    input_ids [T], seq_idx [T] (int32, document number). Of the reply tokens [T_r]: position of the
    token before each, target, sequence (number of its rollout in the row), engine log-probability,
    advantage, mask (chosen by the policy), version (of the policy that sampled it). rollouts [R]:
    their indices in the step.
    """

    input_ids: torch.Tensor
    seq_idx: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor
    sequence: torch.Tensor
    engine: torch.Tensor
    advantage: torch.Tensor
    mask: torch.Tensor
    version: torch.Tensor
    rollouts: list[int]


def pack_rollouts(rollouts: Sequence[Rollout], row_tokens: int) -> list[PackedRow]:
    """Rows of at most `row_tokens` (a longer rollout has a row of its own), in order."""
    rows, current, used = [], list[int](), 0
    for index, rollout in enumerate(rollouts):
        length = len(rollout.prompt) + len(rollout.completion.token_ids)
        if current and used + length > row_tokens:
            rows.append(_row(rollouts, current))
            current, used = [], 0
        current.append(index)
        used += length
    return [*rows, _row(rollouts, current)] if current else rows


def _row(rollouts: Sequence[Rollout], indices: list[int]) -> PackedRow:
    ids, document, position, sequence = list[int](), list[int](), list[int](), list[int]()
    target, mask, version = list[int](), list[bool](), list[int]()
    engine, advantage = list[float](), list[float]()
    for number, index in enumerate(indices):
        rollout = rollouts[index]
        prompt, done = rollout.prompt, rollout.completion
        size = len(done.token_ids)
        if not len(done.logprobs) == len(done.forced) == len(done.versions) == size:
            raise ValueError(f"a reply of {size} tokens lacks log-probabilities, marks or versions")
        first = len(ids) + len(prompt)
        position += range(first - 1, first - 1 + size)
        target += done.token_ids
        sequence += [number] * size
        engine += done.logprobs
        advantage += [rollout.advantage or 0.0] * size
        mask += [rollout.advantage is not None and not forced for forced in done.forced]
        version += done.versions
        ids += [*prompt, *done.token_ids]
        document += [number] * (len(prompt) + size)
    return PackedRow(
        torch.tensor(ids), torch.tensor(document, dtype=torch.int32), torch.tensor(position),
        torch.tensor(target), torch.tensor(sequence), torch.tensor(engine, dtype=torch.float64),
        torch.tensor(advantage, dtype=torch.float64), torch.tensor(mask), torch.tensor(version), indices,
    )  # fmt: skip


def reply_logprobs(
    model: nn.Module, row: PackedRow, truncation: Truncation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability [T_r] of each reply token under the truncated policy, and whether that policy
    can sample it [T_r]. Only the positions of replies reach the output layer."""
    device = next(model.parameters()).device
    logits = model(
        input_ids=row.input_ids[None].to(device),
        seq_idx=row.seq_idx[None].to(device),
        use_cache=False,
        logits_to_keep=row.position.to(device),
    ).logits[0]
    return token_logprobs(logits, row.target.to(device), truncation)
