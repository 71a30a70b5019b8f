"""Microbatches of preferences: whole sides packed in one row, each document isolated; nothing is padded."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.layers import context
from model.logprobs import Truncation, model_logprobs
from rl.dpo.pairs import Side


class PairRow(NamedTuple):
    """Two sides: the better and the worse one of a pair, or a reply and the one that it is mismatched with.

    about: a pair's margin, or 1 for a good reply and 0 for a bad one.
    """

    first: Side
    second: Side
    about: float = 0.0


def reply_side(prompt: list[int], reply: list[int]) -> Side:
    """A prompt and a reply as one document."""
    ids = [*prompt, *reply]
    return Side(ids, [0] * len(prompt) + [1] * len(reply), [0] * len(ids))


class PackedSides(NamedTuple):
    """S sides in one row of T tokens, N of which carry loss.

    position: the token before each of the N; side: whose it is; last: each side's last token.
    """

    input_ids: Int[Tensor, " T"]
    document: Int[Tensor, " T"]
    position: Int[Tensor, " N"]
    target: Int[Tensor, " N"]
    side: Int[Tensor, " N"]
    last: Int[Tensor, " S"]

    def counts(self) -> Float[Tensor, " S"]:
        """Tokens of each side that carry loss."""
        return torch.bincount(self.side, minlength=len(self.last)).float()


def pack_sides(sides: Sequence[Side]) -> PackedSides:
    """The sides one behind the other. No sides: one token that nobody learns from."""
    ids, document, position = list[int](), list[int](), list[int]()
    target, owner, last = list[int](), list[int](), list[int]()
    documents = 0
    for number, side in enumerate(sides):
        start = len(ids)
        ids += side.input_ids
        document += [documents + own for own in side.seq_idx]
        documents += side.seq_idx[-1] + 1
        marked = [i for i, taught in enumerate(side.mask) if taught and i]
        position += [start + i - 1 for i in marked]
        target += [side.input_ids[i] for i in marked]
        owner += [number] * len(marked)
        last.append(len(ids) - 1)
    long = torch.long
    return PackedSides(
        torch.tensor(ids or [0], dtype=long),
        torch.tensor(document or [0], dtype=torch.int32),
        *(torch.tensor(values, dtype=long) for values in (position, target, owner, last)),
    )


def side_logps(model: Any, packed: PackedSides) -> Float[Tensor, " S"]:
    """Each side's log-probability: the sum over its tokens with loss. Call it inside a forward pass."""
    values, _ = model_logprobs(
        model, packed.input_ids, packed.document, packed.position, packed.target, Truncation()
    )
    return values.new_zeros(len(packed.last)).index_add(0, packed.side.to(values.device), values)


def side_scores(model: Any, packed: PackedSides) -> Float[Tensor, " S"]:
    """The score head's value on each side's last token. Call it inside a forward pass."""
    device = next(model.parameters()).device
    ids, document = context.padded(model, packed.input_ids, packed.document)
    hidden = model.base_model(
        input_ids=ids[None].to(device), seq_idx=document[None].to(device), use_cache=False
    ).last_hidden_state[0]
    own, mine = context.at_places(model, hidden, packed.last.to(device))
    head = getattr(model, SCORE_HEAD)
    return context.put_together(model, head(own.to(head.weight.dtype))[:, 0], mine)


SCORE_HEAD = "score_head"
"""Name of a reward model's head inside the language model that is sharded."""
