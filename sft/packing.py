"""Concatenate whole samples into long rows (best-fit decreasing): stage 1 of the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from workbench.errors import UserError


@dataclass(frozen=True)
class Packing:
    """The samples of each row, by index: 8 bytes a sample, however many there are.

    members: the indices, row after row. starts: where each row begins in them, and the end.
    fill_rate: used share of all places.
    """

    members: np.ndarray
    starts: np.ndarray
    fill_rate: float

    @property
    def rows(self) -> list[list[int]]:
        """For each row the indices of its samples, as they were put there."""
        return [self.members[a:b].tolist() for a, b in pairwise(self.starts)]


def alone(num_samples: int) -> Packing:
    """One sample a row."""
    return Packing(np.arange(num_samples), np.arange(num_samples + 1), 1.0)


def pack(lengths: Sequence[int] | np.ndarray, row_tokens: int) -> Packing:
    """Put samples of the given lengths (in tokens) into rows of at most `row_tokens`.

    Best-fit decreasing: each sample, longest first, goes into the fullest row that has room (the
    first of such); no sample is cut. Deterministic; samples of equal length keep their order.

    Raises: UserError where a sample is longer than the row, naming the first such.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(longer := np.flatnonzero(sizes > row_tokens)):
        raise UserError(
            f"sample {longer[0]} has {sizes[longer[0]]:,} tokens, the row {row_tokens:,}; raise "
            "row_tokens or set drop_longer: true"
        )
    order = np.argsort(-sizes, kind="stable")
    row_of = _best_fit(sizes[order], row_tokens)
    by_row = np.argsort(row_of, kind="stable")
    num_rows = int(row_of.max()) + 1 if len(row_of) else 0
    starts = np.searchsorted(row_of[by_row], np.arange(num_rows + 1))
    return Packing(order[by_row], starts, int(sizes.sum()) / max(num_rows * row_tokens, 1))


def _best_fit(sizes: np.ndarray, row_tokens: int) -> np.ndarray:
    """The row of each sample, in the order given."""
    row_of = np.empty(len(sizes), dtype=np.int32)
    open_rows: dict[int, list[int]] = {}  # room left -> rows, as a heap
    rooms = 0  # bit r: some open row has room for r more; one look-up instead of a sorted list
    num_rows = 0
    for place, size in enumerate(sizes.tolist()):
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = heappop(open_rows[room])
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = row_tokens, num_rows
            num_rows += 1
        row_of[place] = row
        if left := room - size:
            heappush(open_rows.setdefault(left, []), row)
            rooms |= 1 << left
    return row_of
