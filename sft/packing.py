"""Concatenate whole samples into long rows (best-fit decreasing): stage 1 of the recipe."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import UserError


@dataclass(frozen=True)
class Packing:
    """rows: for each row the indices of the samples in it. fill_rate: used share of all places."""

    rows: list[list[int]]
    fill_rate: float


def pack(lengths: Sequence[int], row_tokens: int) -> Packing:
    """Put samples of the given lengths (in tokens) into rows of at most `row_tokens`.

    Best-fit decreasing: each sample, longest first, goes into the fullest row that has room; no
    sample is cut. Deterministic; samples of equal length keep their order.

    Raises: UserError where a sample is longer than the row, naming the first such.
    """
    for index, length in enumerate(lengths):
        if length > row_tokens:
            raise UserError(
                f"sample {index} has {length:,} tokens, the row {row_tokens:,}; raise row_tokens "
                "or set drop_longer: true"
            )
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(open_rows, (lengths[index], -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        if room > lengths[index]:
            insort(open_rows, (room - lengths[index], row))
    places = max(len(rows) * row_tokens, 1)
    return Packing(rows, sum(lengths) / places)
