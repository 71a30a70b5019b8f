"""What `dedup` keeps on disk between its passes, in STAGE/checkpoints, and how it is found again.

    sign-00012.npy    signatures of a shard's rows [rows, places], 32 bits each
    keys-00012.npy    by band: (key, row) in the order of keys [bands, rows]; band 0 is the exact key
    cuts-00012.npy    where each range of keys begins in them [bands, ranges + 1]
    pairs-0007.npy    (row, earlier row, same signature) of a range of a band's keys, both numbered over all
    verdict.npy       by row over all: KEEP, EXACT or NEAR

Each appears by rename, so a kill costs what was being made. Rows are numbered over all shards in order:
those of `against` first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_mix.shards import put_in_place, shard_facts, shard_files

KEEP, EXACT, NEAR = 0, 1, 2
EXACT_BAND = 0


@dataclass(frozen=True)
class ShardFile:
    """A shard that is read: `first` is the number of its first row over all. own: it is written again."""

    number: int
    stage: Path
    shard: int
    first: int
    count: int
    own: bool

    @property
    def file(self) -> Path:
        """Its Parquet file."""
        return self.stage / "shards" / f"{self.shard:05d}.parquet"


def parts_of(against: Sequence[Path], inputs: Sequence[Path]) -> list[ShardFile]:
    """The shards of all stages, in the order in which their rows are numbered."""
    parts: list[ShardFile] = []
    first = 0
    for stage, own in [*((s, False) for s in against), *((s, True) for s in inputs)]:
        for file in shard_files(stage):
            facts = shard_facts(stage, int(file.stem))
            assert facts is not None, f"{file} has no facts"
            count = facts.rows_out
            parts.append(ShardFile(len(parts), stage, int(file.stem), first, count, own))
            first += count
    return parts


class Work:
    """The files of one stage's passes."""

    def __init__(self, stage: Path) -> None:
        self.folder = stage / "checkpoints"

    def signatures(self, part: int) -> Path:
        """Of a shard."""
        return self.folder / f"sign-{part:05d}.npy"

    def keys(self, part: int) -> Path:
        """Of a shard."""
        return self.folder / f"keys-{part:05d}.npy"

    def cuts(self, part: int) -> Path:
        """Of a shard; the last of its files to be written."""
        return self.folder / f"cuts-{part:05d}.npy"

    def pairs(self, number: int) -> Path:
        """Of a range of a band."""
        return self.folder / f"pairs-{number:04d}.npy"

    @property
    def verdict(self) -> Path:
        """Of all rows."""
        return self.folder / "verdict.npy"


def save(path: Path, values: NDArray[Any]) -> None:
    """Write an array by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}")
    with half.open("wb") as file:
        np.save(file, values)
    put_in_place(half, path)


def opened(path: Path) -> NDArray[Any]:
    """An array that is read as it is used."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except ValueError:  # nothing is in it, and nothing cannot be mapped
        array = np.load(path)
    return array
