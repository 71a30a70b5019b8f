"""The inputs of `curate` as numbered units, and the rows of a unit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_mix.config import HubSource, JsonlSource, ParquetSource, ShardsSource
from data_mix.curate.config import FilesSource, InputConfig, WarcSource, input_columns
from data_mix.curate.warc import WarcInput
from data_mix.documents import document_of, trainable
from data_mix.files import matching_files
from data_mix.rows import JsonlRows, ParquetRows, RowFile
from data_mix.scatter import Unit
from data_mix.shard_columns import Columns, Row
from data_mix.shards import columns_of, read_shard, shard_files
from data_mix.sources import open_hub, wanted
from data_mix.where import all_met, check_columns


class Input(Protocol):
    """Rows in numbered units. A row with a key `unreadable` is removed by the input, for that reason."""

    @property
    def columns(self) -> Columns:
        """The columns of its rows."""
        ...

    def units(self, rows_per_shard: int) -> list[Unit]:
        """The units, the same in every process."""
        ...

    def rows(self, unit: Unit) -> Iterator[Row]:
        """The rows of a unit, always the same in the same order."""
        ...


def open_input(config: InputConfig) -> Input:
    """Open an input; a stage that it names stands there as its folder."""
    if isinstance(config, WarcSource):
        return WarcInput(config)
    if isinstance(config, FilesSource):
        return FilesInput(config)
    if isinstance(config, ShardsSource):
        return ShardsInput(config)
    return HubInput(config) if isinstance(config, HubSource) else TableInput(config)


def ranges(length: int, size: int, place: str, first: int = 0) -> list[Unit]:
    """Units of `size` rows of something with a length.

    >>> [(u.number, u.start, u.count) for u in ranges(5, 2, "a")]
    [(0, 0, 2), (1, 2, 2), (2, 4, 1)]
    """
    starts = range(0, length, size)
    return [
        Unit(first + number, place, start, min(size, length - start))
        for number, start in enumerate(starts)
    ]


class ShardsInput:
    """The shards of another stage: a unit each, of the same number."""

    def __init__(self, config: ShardsSource) -> None:
        self._config, self._stage = config, Path(config.stage)
        place = f"stage {self._stage.name!r}"
        check_columns(config.where, columns_of(self._stage), name="input", place=place)

    @property
    def columns(self) -> Columns:
        """See Input."""
        return columns_of(self._stage)

    def units(self, rows_per_shard: int) -> list[Unit]:
        """See Input."""
        return [Unit(int(f.stem), f"{self._stage.name}/{f.stem}") for f in shard_files(self._stage)]

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Input."""
        file = self._stage / "shards" / f"{unit.number:05d}.parquet"
        for row in read_shard(file):
            yield row if all_met(row, self._config.where) else {**row, "unreadable": "where"}


class FilesInput:
    """Text files by name."""

    def __init__(self, config: FilesSource) -> None:
        self._config = config

    @property
    def columns(self) -> Columns:
        """See Input."""
        return input_columns(self._config) or {}

    def units(self, rows_per_shard: int) -> list[Unit]:
        """See Input."""
        files = matching_files(self._config.path, name="input")
        return ranges(len(files), rows_per_shard, self._config.path)

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Input."""
        files = matching_files(self._config.path, name="input")
        for path in files[unit.start : unit.start + (unit.count or 0)]:
            row: Row = {"id": str(path), "path": str(path), "text": ""}
            if path.stat().st_size > self._config.most_bytes:
                yield {**row, "unreadable": "too large"}
                continue
            try:
                yield {**row, "text": path.read_text(encoding="utf-8-sig")}
            except UnicodeDecodeError:
                yield {**row, "unreadable": "no text in UTF-8"}


class TableInput:
    """JSONL or Parquet files, cut into ranges of rows."""

    def __init__(self, config: JsonlSource | ParquetSource) -> None:
        self._config = config
        self._opened: RowFile | None = None

    @property
    def _rows(self) -> RowFile:
        if self._opened is None:
            files = matching_files(self._config.path, name="input")
            if isinstance(self._config, JsonlSource):
                self._opened = JsonlRows(files)
            else:
                # What a text's row holds beside it goes into `meta`.
                read_of = None if self._config.form == "text" else self._config.read_of
                self._opened = ParquetRows(files, name="input", read_of=read_of)
        return self._opened

    @property
    def columns(self) -> Columns:
        """See Input."""
        return input_columns(self._config) or {}

    def units(self, rows_per_shard: int) -> list[Unit]:
        """See Input."""
        return ranges(len(self._rows), rows_per_shard, self._config.path)

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Input."""
        for number in range(unit.start, unit.start + (unit.count or 0)):
            row, where = self._rows.row(number)
            yield _row_of(row, self._config, where)


class HubInput:
    """A dataset of the hub, streamed: a unit is one of its own files."""

    def __init__(self, config: HubSource) -> None:
        self._config = config

    @property
    def columns(self) -> Columns:
        """See Input."""
        return input_columns(self._config) or {}

    def units(self, rows_per_shard: int) -> list[Unit]:
        """See Input."""
        files = open_hub(self._config, "input").num_shards
        return [Unit(number, f"{self._config.id}, file {number}") for number in range(files)]

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Input."""
        dataset = open_hub(self._config, "input")
        part = dataset.shard(num_shards=dataset.num_shards, index=unit.number)
        for number, row in enumerate(part):
            place = f"{unit.place}, row {number}"
            if wanted(row, self._config, "input"):
                yield _row_of(row, self._config, place)
            else:
                yield {"id": str(row.get("id") or place), "unreadable": "where"}


def _row_of(row: Row, config: JsonlSource | ParquetSource | HubSource, where: str) -> Row:
    """A row of a table in the columns of `input_columns`. Raises: UserError where it is none."""
    document = trainable(document_of(row, config, where=where))
    if isinstance(document, str):
        column, _ = config.column_of()["text"]
        meta = {k: v for k, v in row.items() if k not in ("id", column)}
        identity = str(row.get("id") or where)
        return {"id": identity, "text": document, "source": where, "meta": meta or None}
    return document.to_row()
