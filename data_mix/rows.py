"""Random access to the rows of local JSONL and Parquet files, without reading them into memory."""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from data_mix.files import json_object, lines_of
from data_mix.where import Condition, all_met, check_columns
from workbench.errors import UserError


def rows_where(
    files: Sequence[Path], where: Mapping[str, Condition], *, name: str
) -> Iterator[int]:
    """Numbers of the Parquet rows that meet every condition; reads only the columns named.

    Raises: UserError where a file has no such column.
    """
    first = 0
    for path in files:
        opened = pq.ParquetFile(path)
        check_columns(where, opened.schema_arrow.names, name=name, place=str(path))
        if where:
            rows = opened.read(columns=[*where]).to_pylist()
            yield from (first + n for n, row in enumerate(rows) if all_met(row, where))
        else:
            yield from range(first, first + opened.metadata.num_rows)
        first += opened.metadata.num_rows


class RowFile(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> tuple[dict[str, Any], str]:
        """The row and where it stands, for messages."""
        ...

    def place(self, number: int) -> str:
        """Where the row stands; reads nothing."""
        ...

    def order(self, seed: str) -> Sequence[int]:
        """All row numbers, shuffled in a way that is cheap to read."""
        ...


class JsonlRows:
    """JSONL files, one object a line; blank lines are skipped."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        places = array("q")  # file, byte offset, line number
        for number, path in enumerate(self._files):
            for line_number, offset, _ in lines_of(path):
                places.extend((number, offset, line_number))
        self._places = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def row(self, number: int) -> tuple[dict[str, Any], str]:
        """Read one line."""
        file, offset, _ = (int(v) for v in self._places[number])
        where = self.place(number)
        with self._files[file].open("rb") as lines:
            lines.seek(offset)
            line = lines.readline()
        return json_object(line, where=where), where

    def place(self, number: int) -> str:
        """See RowFile."""
        file, _, line_number = (int(v) for v in self._places[number])
        return f"{self._files[file]}, line {line_number}"

    def order(self, seed: str) -> Sequence[int]:
        """A plain permutation."""
        numbers = array("q", range(len(self)))
        Random(seed).shuffle(numbers)
        return numbers


class ParquetRows:
    """Parquet files; one row group is held in memory at a time.

    read_of: which of a file's columns are read; None, or where it returns that: all.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        name: str,
        read_of: Callable[[Collection[str]], list[str] | None] | None = None,
    ) -> None:
        self._files, self._name, self._read_of = list(files), name, read_of
        self._groups: list[tuple[int, int, int]] = []  # file, row group, first row number
        self._length, self._begins = 0, list[int]()
        for number, path in enumerate(self._files):
            self._begins.append(self._length)
            try:
                metadata = pq.read_metadata(path)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"source {name!r}: {path} is not a Parquet file ({error})"
                ) from None
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group, self._length))
                self._length += metadata.row_group(group).num_rows
        self._starts = np.array([first for _, _, first in self._groups], dtype=np.int64)
        self._cached: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return self._length

    def row(self, number: int) -> tuple[dict[str, Any], str]:
        """Read one row, its group from memory where it was the last one read."""
        place = self._group(number)
        file, group, first = self._groups[place]
        if self._cached[0] != place:
            self._cached = (place, self._rows_of(self._files[file], group))
        return self._cached[1][number - first], self.place(number)

    def _rows_of(self, path: Path, group: int) -> list[dict[str, Any]]:
        opened = pq.ParquetFile(path)
        columns = self._read_of(opened.schema_arrow.names) if self._read_of is not None else None
        try:
            rows: list[dict[str, Any]] = opened.read_row_group(group, columns=columns).to_pylist()
        except (ValueError, OverflowError) as error:  # a time that Python has no word for
            raise UserError(
                f"source {self._name!r}: {path}, row group {group}: a value cannot be read ({error}); "
                "mend its column, or leave it out of the file"
            ) from None
        return rows

    def place(self, number: int) -> str:
        """See RowFile."""
        file = self._groups[self._group(number)][0]
        return f"{self._files[file]}, row {number - self._begins[file]}"

    def _group(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def order(self, seed: str) -> Sequence[int]:
        """Row groups in random order, rows shuffled inside each: every group is read once."""
        rng = Random(seed)
        ends = [first for _, _, first in self._groups[1:]] + [self._length]
        blocks = [list(range(g[2], end)) for g, end in zip(self._groups, ends, strict=True)]
        rng.shuffle(blocks)
        for block in blocks:
            rng.shuffle(block)
        return array("q", (number for block in blocks for number in block))
