"""Where documents begin and end in a batch of packed rows, worked out once a forward pass.

Legend: B rows, T tokens a row, L tokens a chunk, C chunks a row.
"""

import dataclasses
from functools import cached_property
from itertools import pairwise

import torch

# Padded lengths of attention: documents of one padded length form one batched call. Steps of at
# most a third keep the wasted work small and the number of calls near ten.
_BUCKETS = sorted({step << power for power in range(3, 24) for step in (2, 3)})


@dataclasses.dataclass(frozen=True)
class ScanMasks:
    """What may reach what inside and between chunks; additive masks hold 0 or -inf.

    inside [B|1, C|1, L, L]: 1 where token s may reach token l (same document, s <= l), else 0.
    inside_bias: the same as 0 / -inf.
    entering [B, C, L], leaving [B, C, L], through [B, C]: whether the state before the chunk
    reaches a token, a token reaches the state after the chunk, and the state passes through;
    None means everywhere.
    """

    inside: torch.Tensor
    inside_bias: torch.Tensor
    entering: torch.Tensor | None = None
    leaving: torch.Tensor | None = None
    through: torch.Tensor | None = None


class Gather(torch.autograd.Function):
    """Rows of `source` picked by `there`; the gradient picks them back by `back`.

    Exact for a picking that uses each row of `source` at most once outside its padding, where
    padding (`there` == len(source)) reads a row of zeros and carries no gradient. Gathering is
    many times faster than the scattered additions of index_select's own backward.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        source: torch.Tensor,
        there: torch.Tensor,
        back: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(there, back)
        return _pick(source, there)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        _, back = ctx.saved_tensors  # type: ignore[attr-defined]
        return _pick(grads[0], back), None, None


def _pick(source: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """source [R, ...] -> [len(rows), ...], a row of zeros where the index is R."""
    padded = rows == source.shape[0]
    picked = source.index_select(0, rows.clamp(max=source.shape[0] - 1))
    if bool(padded.any()):
        picked[padded] = 0
    return picked


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Documents grouped by padded length for attention.

    there: for each slot of the padded batches, one after the other, the flat token (B*T marks
    padding). back: for each flat token, its slot. groups: (documents, padded length) a batch.
    """

    there: torch.Tensor
    back: torch.Tensor
    groups: list[tuple[int, int]]


class DocumentLayout:
    """Document boundaries of seq_idx [B, T], and what each kind of layer derives from them.

    A document ends where its number changes or its row ends. Documents never span rows.
    """

    def __init__(self, seq_idx: torch.Tensor) -> None:
        self.batch, self.length = seq_idx.shape
        self.device = seq_idx.device
        first = torch.ones_like(seq_idx, dtype=torch.bool)
        first[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        flat = first.reshape(-1)
        # [D] first flat token of each document, and its number of tokens.
        self.starts = flat.nonzero().squeeze(1)
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([flat.numel()])])
        self.lengths = ends - self.starts
        # [B, T] a number for each document, unique over the whole batch.
        self.document = (flat.cumsum(0) - 1).view(self.batch, self.length)
        self._masks: dict[int, ScanMasks] = {}
        self._heads: dict[int, torch.Tensor] = {}

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """[B, T] position of each token in its document, from 0."""
        tokens = torch.arange(self.batch * self.length, device=self.device)
        begin = self.starts.repeat_interleave(self.lengths)
        return (tokens - begin).view(self.batch, self.length)

    @cached_property
    def places(self) -> torch.Tensor:
        """position_ids as int32, as the fused kernels read them."""
        return self.position_ids.int()

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """[D + 1] int32 cumulative lengths over the flattened batch, as varlen kernels want."""
        return torch.cat([self.starts, self.starts.new_tensor([self.batch * self.length])]).int()

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each document, in the order of the flattened batch."""
        return [int(size) for size in self.lengths.tolist()]

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    def spans(self, most: int) -> list[slice]:
        """The flat tokens in runs of whole documents, each of `most` tokens or one longer document."""
        total = self.batch * self.length
        if most >= total:
            return [slice(0, total)]
        ends = [*self.starts.tolist()[1:], total]
        edges = [0]
        for before, end in pairwise([0, *ends]):
            if end - edges[-1] > most and before > edges[-1]:
                edges.append(before)
        return [slice(a, b) for a, b in pairwise([*edges, total])]

    def heads(self, width: int) -> torch.Tensor:
        """Flat indices of the tokens whose position in their document is below `width`."""
        if width not in self._heads:
            near = self.starts[:, None] + torch.arange(width, device=self.device)
            inside = torch.arange(width, device=self.device) < self.lengths[:, None]
            self._heads[width] = near[inside]
        return self._heads[width]

    def scan_masks(self, chunk: int) -> ScanMasks:
        """Masks of the chunked scan for chunks of `chunk` tokens (the last one padded)."""
        if chunk not in self._masks:
            self._masks[chunk] = self._scan_masks(chunk)
        return self._masks[chunk]

    def _scan_masks(self, chunk: int) -> ScanMasks:
        padding = -self.length % chunk
        document = torch.nn.functional.pad(self.document, (0, padding), value=-1)
        document = document.view(self.batch, -1, chunk)
        causal = torch.ones(chunk, chunk, dtype=torch.bool, device=self.device).tril()
        inside = (document[..., :, None] == document[..., None, :]) & causal
        last = document[..., -1]
        before = torch.nn.functional.pad(last[:, :-1], (1, 0), value=-2)
        return ScanMasks(
            inside=inside.float(),
            inside_bias=_bias(inside),
            entering=_bias(document == before[..., None]),
            leaving=_bias(document == last[..., None]),
            through=_bias(last == before),
        )

    @cached_property
    def buckets(self) -> Buckets:
        sizes = torch.tensor(_BUCKETS, device=self.device)
        padded = sizes[torch.searchsorted(sizes, self.lengths)]
        tokens = self.batch * self.length
        back = torch.empty(tokens, dtype=torch.long, device=self.device)
        there, groups, used = [], [], 0
        for size in padded.unique().tolist():
            mine = (padded == size).nonzero().squeeze(1)
            offset = torch.arange(size, device=self.device)
            token = self.starts[mine, None] + offset
            real = offset < self.lengths[mine, None]
            back[token[real]] = used + real.reshape(-1).nonzero().squeeze(1)
            there.append(token.masked_fill(~real, tokens).reshape(-1))
            groups.append((len(mine), size))
            used += len(mine) * size
        return Buckets(there=torch.cat(there), back=back, groups=groups)


def causal_masks(chunk: int, device: torch.device) -> ScanMasks:
    """Masks of rows that hold one document each."""
    inside = torch.ones(1, 1, chunk, chunk, dtype=torch.bool, device=device).tril()
    return ScanMasks(inside=inside.float(), inside_bias=_bias(inside))


def _bias(allowed: torch.Tensor) -> torch.Tensor:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)
