"""Packed log-probabilities: whole rollouts in rows, documents isolated, nothing padded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rl.rollout import Rollout


@dataclass(frozen=True)
class PackedRow:
    """input_ids [T], seq_idx [T], and for the T_r reply tokens of all rollouts in the row:
    position [T_r] of the token before each, target [T_r], rollout [T_r] (index in the step)."""

    input_ids: torch.Tensor
    seq_idx: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor
    rollout: torch.Tensor


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


def _row(rollouts: Sequence[Rollout], indices: Sequence[int]) -> PackedRow:
    ids: list[int] = []
    number: list[int] = []
    position: list[int] = []
    target: list[int] = []
    owner: list[int] = []
    for document, index in enumerate(indices):
        prompt, reply = rollouts[index].prompt, rollouts[index].completion.token_ids
        first = len(ids) + len(prompt)
        position += range(first - 1, first - 1 + len(reply))
        target += reply
        owner += [index] * len(reply)
        ids += [*prompt, *reply]
        number += [document] * (len(prompt) + len(reply))
    return PackedRow(
        torch.tensor(ids),
        torch.tensor(number, dtype=torch.int32),
        torch.tensor(position),
        torch.tensor(target),
        torch.tensor(owner),
    )


def reply_logprobs(model: nn.Module, row: PackedRow, temperature: float) -> torch.Tensor:
    """Log-probability [T_r] of each reply token under softmax(logits / temperature), fp32."""
    device = next(model.parameters()).device
    logits = model(
        input_ids=row.input_ids[None].to(device),
        seq_idx=row.seq_idx[None].to(device),
        use_cache=False,
    ).logits[0]
    chosen = logits[row.position.to(device)].float() / temperature
    return torch.log_softmax(chosen, dim=-1).gather(1, row.target.to(device)[:, None])[:, 0]


def per_token(
    rollouts: Sequence[Rollout], rows: Sequence[PackedRow]
) -> Iterator[tuple[PackedRow, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each row: the engine's log-probabilities, advantages and mask of its reply tokens."""
    for row in rows:
        order = list(dict.fromkeys(row.rollout.tolist()))
        engine, advantage, mask = [], [], []
        for index in order:
            done, gain = rollouts[index].completion, rollouts[index].advantage
            engine += done.logprobs
            advantage += [gain or 0.0] * len(done.token_ids)
            mask += [gain is not None and not forced for forced in done.forced]
        yield row, torch.tensor(engine), torch.tensor(advantage), torch.tensor(mask)
