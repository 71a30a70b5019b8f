"""Packed log-probabilities: whole rollouts in rows, documents isolated, nothing padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from engine.protocol import Completion
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
        length = sum(len(s.before) + len(s.reply.token_ids) for s in segments(rollout))
        if current and used + length > row_tokens:
            rows.append(_row(rollouts, current))
            current, used = [], 0
        current.append(index)
        used += length
    return [*rows, _row(rollouts, current)] if current else rows


class Segment(NamedTuple):
    """A reply with the ids that stand before it. begins: it is the first of its document."""

    before: list[int]
    reply: Completion
    begins: bool


def segments(rollout: Rollout) -> list[Segment]:
    """The replies of an episode, each behind the very ids that it was sampled from.

    A turn whose prompt begins with all that stood and was said before goes on in that document; one
    that shows the past otherwise (a format drops older traces) begins another.
    """
    out, seen = list[Segment](), list[int]()
    for turn in rollout.turns:
        goes_on = bool(out) and turn.prompt[: len(seen)] == seen
        before = turn.prompt[len(seen) :] if goes_on else turn.prompt
        out.append(Segment(before, turn.completion, not goes_on))
        seen = [*turn.prompt, *turn.completion.token_ids]
    return out


def _row(rollouts: Sequence[Rollout], indices: list[int]) -> PackedRow:
    ids, document, position, sequence = list[int](), list[int](), list[int](), list[int]()
    target, mask, version = list[int](), list[bool](), list[int]()
    engine, advantage = list[float](), list[float]()
    documents = 0
    for number, index in enumerate(indices):
        rollout = rollouts[index]
        for before, done, begins in segments(rollout):
            size = len(done.token_ids)
            if not len(done.logprobs) == len(done.forced) == len(done.versions) == size:
                raise ValueError(
                    f"a reply of {size} tokens lacks log-probabilities, marks or versions"
                )
            documents += begins
            first = len(ids) + len(before)
            position += range(first - 1, first - 1 + size)
            target += done.token_ids
            sequence += [number] * size
            engine += done.logprobs
            advantage += [rollout.advantage or 0.0] * size
            mask += [rollout.advantage is not None and not forced for forced in done.forced]
            version += done.versions
            ids += [*before, *done.token_ids]
            document += [documents - 1] * (len(before) + size)
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
