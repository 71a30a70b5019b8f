"""The passes of `dedup`: sign rows, pair those that share a band, decide. Each in bounded memory.

A range of a band's keys is small enough to sort in memory; signatures are read from disk where they are
compared. What grows with the number of rows in memory is the verdict alone, a byte each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_mix.duplicates.files import EXACT, EXACT_BAND, KEEP, NEAR, ShardFile, Work, opened, save
from data_mix.duplicates.signature import Signer, band_keys, exact_key
from data_mix.shards import read_shard, says

KEYS = np.dtype([("key", np.uint64), ("row", np.uint32)])
PAIRS = np.dtype([("row", np.int64), ("earlier", np.int64), ("exact", np.bool_)])
# Keys of a range: about 30 MB while they are sorted.
RANGE_KEYS = 500_000
_COMPARED = 20_000
_VERDICT_ROWS = 1 << 20
# A bucket of unlike texts is gone through so many times: each pass compares all with the first one left.
_MOST_PASSES = 32
# Standard errors below the threshold at which an estimate still counts: a miss stays for ever.
_MARGIN = 1.5


@dataclass(frozen=True)
class Shape:
    """Of signatures and of what is compared. near: None for exact duplicates alone."""

    bands: int
    rows: int
    near: float | None
    ranges: int

    @property
    def places(self) -> int:
        """Numbers of a signature."""
        return self.bands * self.rows

    @property
    def least(self) -> float:
        """The share of equal places from which two texts are near duplicates."""
        near = self.near or 1.0
        return near - _MARGIN * (near * (1 - near) / self.places) ** 0.5


def ranges_of(num_rows: int) -> int:
    """Into how many ranges the keys of a band are cut."""
    return max(-(-num_rows // RANGE_KEYS), 1)


def sign(work: Work, part: ShardFile, shape: Shape) -> None:
    """Write the signatures and keys of a shard."""
    if work.cuts(part.number).exists():
        return
    signer = Signer(shape.places)
    signatures = np.zeros((part.count, shape.places if shape.near is not None else 0), np.uint32)
    exact = np.zeros(part.count, np.uint64)
    for number, row in enumerate(read_shard(part.file)):
        text = says(row)
        exact[number] = exact_key(text)
        if shape.near is not None:
            signatures[number] = signer.signature(text)
    write_keys(work, part.number, signatures, exact, shape)


def write_keys(
    work: Work,
    part: int,
    signatures: NDArray[np.uint32],
    exact: NDArray[np.uint64],
    shape: Shape,
) -> None:
    """Write a shard's signatures, its keys in order, and where each range of keys begins."""
    keys = exact[None]
    if shape.near is not None:
        keys = np.concatenate([keys, band_keys(signatures, shape.bands)])
    table = np.zeros(keys.shape, KEYS)
    edges = _edges(shape.ranges)
    cuts = np.zeros((len(keys), shape.ranges + 1), np.int64)
    for band, own in enumerate(keys):
        order = np.argsort(own, kind="stable")
        table[band]["key"], table[band]["row"] = own[order], order
        cuts[band, :-1] = np.searchsorted(own[order], edges)
        cuts[band, -1] = len(own)
    save(work.signatures(part), signatures)
    save(work.keys(part), table)
    save(work.cuts(part), cuts)


def _edges(ranges: int) -> NDArray[np.uint64]:
    return np.array([(2**64 * n) // ranges for n in range(ranges)], np.uint64)


def pair(work: Work, parts: Sequence[ShardFile], band: int, number: int, shape: Shape) -> None:
    """Write the pairs of one range of a band: each row with an earlier one that it is like."""
    path = work.pairs(band * shape.ranges + number)
    if path.exists():
        return
    keys, rows = _range(work, parts, band, number)
    order = np.argsort(keys, kind="stable")  # rows of equal keys stay in their order
    keys, rows = keys[order], rows[order]
    groups = np.cumsum(np.concatenate([[False], keys[1:] != keys[:-1]])[: len(keys)])
    reader = Signatures(work, parts)
    # Equal exact keys are confirmed by equal signatures, where there are any.
    least = 1.0 if band == EXACT_BAND else shape.least
    found = list(_pairs(groups, rows, reader, least, compare=shape.near is not None))
    pairs = np.concatenate([np.zeros(0, PAIRS), *found])
    if band == EXACT_BAND:
        pairs["exact"] = True
    save(path, np.sort(pairs, order=["row", "earlier"]))


def _range(
    work: Work, parts: Sequence[ShardFile], band: int, number: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for part in parts:
        begin, end = opened(work.cuts(part.number))[band, number : number + 2]
        own = opened(work.keys(part.number))[band, begin:end]
        keys.append(own["key"])
        rows.append(own["row"].astype(np.int64) + part.first)
    return np.concatenate(keys), np.concatenate(rows)


class Signatures:
    """The signatures of rows by their numbers over all."""

    def __init__(self, work: Work, parts: Sequence[ShardFile]) -> None:
        self._first = np.array([part.first for part in parts], np.int64)
        self._files = [work.signatures(part.number) for part in parts]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[rows, places]; a shard is opened once for all of its rows."""
        shards = np.searchsorted(self._first, rows, side="right") - 1
        out = None
        for shard in np.unique(shards):
            held = opened(self._files[shard])
            if out is None:
                out = np.zeros((len(rows), held.shape[1]), np.uint32)
            chosen = shards == shard
            out[chosen] = held[rows[chosen] - self._first[shard]]
        return np.zeros((0, 1), np.uint32) if out is None else out


def _pairs(
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    reader: Signatures,
    least: float,
    *,
    compare: bool,
) -> Iterator[NDArray[np.void]]:
    """Compare all rows of each group with its first; the unlike ones among themselves, and again."""
    for _ in range(_MOST_PASSES):
        begins = np.concatenate([[True], groups[1:] != groups[:-1]])[: len(groups)]
        if begins.all():
            return
        first = rows[begins][np.cumsum(begins) - 1][~begins]
        groups, rows = groups[~begins], rows[~begins]
        like = _alike(rows, first, reader, least) if compare else np.ones(len(rows), bool)
        found = np.zeros(int(like.sum()), PAIRS)
        found["row"], found["earlier"] = rows[like], first[like]
        yield found
        groups, rows = groups[~like], rows[~like]


def _alike(
    rows: NDArray[np.int64], others: NDArray[np.int64], reader: Signatures, least: float
) -> NDArray[np.bool_]:
    out = np.zeros(len(rows), bool)
    for start in range(0, len(rows), _COMPARED):
        block = slice(start, start + _COMPARED)
        out[block] = (reader.of(rows[block]) == reader.of(others[block])).mean(axis=1) >= least
    return out


def decide(work: Work, parts: Sequence[ShardFile], num_pairs: int) -> None:
    """Write what becomes of each row: it goes where it is like an earlier row that stays.

    In the order of rows, so that what an earlier row became is known. Rows that are not `own` all stay.
    """
    if work.verdict.exists():
        return
    num_rows = sum(part.count for part in parts)
    num_fixed = sum(part.count for part in parts if not part.own)
    verdict = np.full(num_rows, KEEP, np.uint8)
    files = [opened(work.pairs(number)) for number in range(num_pairs)]
    for start in range(num_fixed, num_rows, _VERDICT_ROWS):
        for row, earlier, exact in _pairs_between(files, start, start + _VERDICT_ROWS):
            if verdict[earlier] == KEEP and verdict[row] != EXACT:
                verdict[row] = EXACT if exact else NEAR
    save(work.verdict, verdict)


def _pairs_between(
    files: Sequence[NDArray[np.void]], start: int, end: int
) -> list[tuple[int, int, bool]]:
    """The pairs of rows start <= row < end, in the order of rows."""
    found = [np.zeros(0, PAIRS)]
    for pairs in files:
        a, b = np.searchsorted(pairs["row"], [start, end])
        if b > a:
            found.append(np.array(pairs[a:b]))
    whole = np.unique(np.concatenate(found))
    return list(map(tuple, whole.tolist()))
