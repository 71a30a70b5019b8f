"""Tokenised samples in files, and rows as lists of their numbers: memory does not grow with them.

A folder holds `tokens.bin` (int32; a token without loss stands as its bitwise complement, below 0),
and by sample: `ends.npy` (where it ends), `domains.npy`, `losses.npy` (tokens with loss); by row,
once it is packed: `members.npy`, `starts.npy`. Arrays by sample are mapped; tokens are read when a
row is asked for, so each process reads its own rows alone.
"""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from sft.packing import Packing


@dataclass(frozen=True)
class Example:
    """One rendered sample: input_ids [T] and labels [T] (-100 outside the assistant's tokens)."""

    domain: str
    input_ids: list[int]
    labels: list[int]

    @property
    def signed(self) -> np.ndarray:
        """Both in one [T]: the id where it is a label too, its complement elsewhere."""
        ids, labels = np.asarray(self.input_ids, np.int32), np.asarray(self.labels, np.int32)
        assert ((labels == -100) | (labels == ids)).all(), "a label is not its own token"
        return np.where(labels == -100, ~ids, ids)


class TrainingRow(TypedDict):
    """One training row [T]: whole samples in a line. seq_idx numbers them."""

    input_ids: list[int]
    labels: list[int]
    seq_idx: list[int]


EMPTY_ROW: TrainingRow = {"input_ids": [0], "labels": [-100], "seq_idx": [0]}
"""One token without loss."""


class Samples:
    """The samples of a folder, by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.domain_names: list[str] = json.loads((folder / "domains.json").read_text())
        ends, self.domains, self.losses = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ends", "domains", "losses")
        )
        self.starts = np.concatenate([[0], ends])
        self._file = os.open(folder / "tokens.bin", os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample [N]."""
        return np.diff(self.starts)

    def signed(self, number: int) -> np.ndarray:
        """Tokens of a sample as `Example.signed` has them. Raises: OSError where the file is short."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        data = os.pread(self._file, 4 * (end - start), 4 * start)
        if len(data) != 4 * (end - start):
            raise OSError(f"{self.folder / 'tokens.bin'} ends inside sample {number}")
        return np.frombuffer(data, np.int32)


def write_samples(folder: Path, examples: Iterable[tuple[str, np.ndarray]]) -> Samples:
    """Write (domain, signed tokens) of each sample, in their order; holds one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, int] = {}
    ends, domains, losses, end = array("q"), array("i"), array("q"), 0
    with (folder / "tokens.bin").open("wb") as tokens:
        for domain, signed in examples:
            tokens.write(signed.astype(np.int32, copy=False).tobytes())
            end += len(signed)
            ends.append(end)
            domains.append(names.setdefault(domain, len(names)))
            losses.append(int((signed >= 0).sum()))
    for name, values in (("ends", ends), ("domains", domains), ("losses", losses)):
        np.save(folder / f"{name}.npy", np.asarray(values))
    (folder / "domains.json").write_text(json.dumps(list(names)))
    return Samples(folder)


class PackedRows(Sequence[TrainingRow]):
    """Rows by number, read from the samples when asked for.

    spare: rows of one token without loss behind them.
    """

    def __init__(self, folder: Path, *, spare: int = 0) -> None:
        self.folder, self.spare = folder, spare
        self._samples = Samples(folder)
        self._members = np.load(folder / "members.npy", mmap_mode="r")
        self._starts = np.load(folder / "starts.npy", mmap_mode="r")

    def __reduce__(self) -> Any:
        return _open, (self.folder, self.spare)  # processes open the files, and send none of them

    def __len__(self) -> int:
        return len(self._starts) - 1 + self.spare

    def __iter__(self) -> Iterator[TrainingRow]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        if number >= len(self._starts) - 1:
            return EMPTY_ROW
        members = self._members[self._starts[number] : self._starts[number + 1]]
        return _row([self._samples.signed(int(one)) for one in members])

    def columns(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """The columns of the rows numbered `batch["row"]`: what a Hugging Face dataset gives."""
        rows = [self[number] for number in batch["row"]]
        return {name: [row[name] for row in rows] for name in EMPTY_ROW}


def write_rows(samples: Samples, packing: Packing) -> PackedRows:
    """Write which samples each row has, beside them."""
    np.save(samples.folder / "members.npy", packing.members)
    np.save(samples.folder / "starts.npy", packing.starts)
    return PackedRows(samples.folder)


def _open(folder: Path, spare: int) -> PackedRows:
    return PackedRows(folder, spare=spare)


def _row(samples: Sequence[np.ndarray]) -> TrainingRow:
    signed = np.concatenate(samples)
    ids = np.where(signed < 0, ~signed, signed)
    labels = np.where(signed < 0, -100, signed)
    # The first token of a sample is never predicted from the sample before it.
    lengths = [len(one) for one in samples]
    labels[np.cumsum([0, *lengths[:-1]])] = -100
    seq_idx = np.repeat(np.arange(len(samples)), lengths)
    return TrainingRow(input_ids=ids.tolist(), labels=labels.tolist(), seq_idx=seq_idx.tolist())
