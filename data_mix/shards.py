"""Shards: the files of a data stage, and what is known of each. Every data stage reads and writes them here.

A stage has numbered units of input, and makes one shard of each::

    runs/RUN/STAGE/shards/00012.parquet   the rows that were kept, in the order of the unit
    runs/RUN/STAGE/shards/00012.json      `ShardFacts`; written last: a shard without it does not count
    runs/RUN/STAGE/failed/00012.jsonl     {row, id, step, reason} of rows that could not be decided, to read
    runs/RUN/STAGE/removed/00012.jsonl    the same of removed rows, with their text: a sample (`keep_removed`)

A file is written beside its place, synced, and renamed. A kill therefore leaves whole shards and halves
that are made again; there is no other state. Whatever made a shard, `in = kept + removed + failed` holds,
and `ShardWriter.close` asserts it.

Columns (data_mix.shard_columns) are declared before the first row is written, so that all shards of a stage have
one schema. The column `row` is added: the place of the input row in its unit.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_mix.messages import said_in
from data_mix.shard_columns import Columns, Row
from workbench.errors import UserError
from workbench.rundir import json_text, read_json, read_json_lines

PLACE = "row"
GROUP_ROWS = 1000
_METADATA = b"anneal.columns"
_MESSAGE = pa.struct(
    [(key, pa.string()) for key in ("role", "content", "reasoning_content", "tool_calls", "name")]
    + [("tool_call_id", pa.string()), ("weight", pa.int64()), ("reasoning_cut", pa.bool_())]
)
_ARROW = {
    **{"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "flag": pa.bool_()},
    **{"json": pa.string(), "messages": pa.list_(_MESSAGE)},
}


@dataclass
class Item:
    """A row on its way through a stage.

    place: its number in the unit. counts: what steps found in it, "STEP/NAME" -> how many; those of a row
    that fails are dropped, so that a retried row is not counted twice. sizes: step -> characters of text
    after it.
    """

    place: int
    row: Row
    counts: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """The rows made of an item; in `curate` the one row."""

    rows: Sequence[Row]


@dataclass(frozen=True)
class Removed:
    """A decision against a row. step: its name in the recipe. reason: from a short list, for counting."""

    step: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """No decision: a dead server, a cut reply, a crash of a tool. The row is retried, and never lost."""

    step: str
    reason: str


Outcome = Kept | Removed | Failed


@dataclass
class ShardFacts:
    """What a shard was made from and holds. Example::

    ShardFacts(shard=12, unit="pages.warc.gz, from record 0", rows_in=100, kept=90, rows_out=90,
               removed={"language: de": 9}, failed={"html: lynx ended with signal 11": 1},
               characters_in=512000, sizes={"html": 480000}, counts={"equations/found": 310},
               bytes=91234, sha256="...", seconds={"html": 1.5})
    """

    shard: int
    unit: str = ""
    rows_in: int = 0
    kept: int = 0
    """Input rows that were kept."""
    rows_out: int = 0
    """Rows written: as many as `kept` where each makes one."""
    removed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    failed_places: list[int] = field(default_factory=list)
    """Places of the rows that are to be tried again."""
    characters_in: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Step -> characters after it, of rows that were decided."""
    counts: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    sha256: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def num_failed(self) -> int:
        """Rows without a decision."""
        return sum(self.failed.values())

    @property
    def num_removed(self) -> int:
        """Rows decided against."""
        return sum(self.removed.values())

    def check(self) -> None:
        """What holds of every shard, whatever made it."""
        accounted = self.kept + self.num_removed + self.num_failed
        assert self.rows_in == accounted, f"{self.rows_in} rows in, {accounted} accounted: {self}"


def total(facts: Iterable[ShardFacts]) -> ShardFacts:
    """The sums over shards."""
    out = ShardFacts(-1)
    for one in facts:
        for name in ("rows_in", "kept", "rows_out", "characters_in", "bytes"):
            setattr(out, name, getattr(out, name) + getattr(one, name))
        for name in ("removed", "failed", "sizes", "counts", "seconds"):
            _add(getattr(out, name), getattr(one, name))
    return out


def _add(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        into[key] = into.get(key, 0) + value


class ShardWriter:
    """Writes one shard. `put` every item once, in the order of their places; then `close`.

    again: the facts of the shard as it stands, where only its failed rows are put this time. keep_removed:
    the share of removed rows whose text is kept for the report, chosen by their ids.
    """

    def __init__(
        self,
        stage: Path,
        facts: ShardFacts,
        columns: Columns,
        *,
        keep_removed: float = 0.0,
        again: ShardFacts | None = None,
    ) -> None:
        self._stage, self.facts, self._columns = stage, facts, columns
        self._keep_removed, self._again = keep_removed, again
        self._file = shard_path(stage, facts.shard)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._retried = set(again.failed_places) if again else set()
        self._old = self._standing() if again else iter(())
        self._next_old = next(self._old, None)
        self._schema = schema_of(columns)
        self._half = self._file.with_name(f"{self._file.name}.part")
        self._parquet = pq.ParquetWriter(self._half, self._schema, compression="zstd")
        self._group: list[Row] = []
        self._failed: list[Row] = []
        self._removed: list[Row] = []

    def _standing(self) -> Iterator[Row]:
        rows = read_shard(self._file, with_place=True)
        return (row for row in rows if row[PLACE] not in self._retried)

    def put(self, item: Item, outcome: Outcome, *, characters_in: int = 0) -> None:
        """Record what became of an item."""
        facts = self.facts
        facts.rows_in += 1
        if isinstance(outcome, Failed):
            _add(facts.failed, {f"{outcome.step}: {outcome.reason}": 1})
            facts.failed_places.append(item.place)
            self._failed.append(_left_out(item, outcome))
            return
        facts.characters_in += characters_in
        _add(facts.counts, item.counts)
        _add(facts.sizes, item.sizes)
        if isinstance(outcome, Removed):
            _add(facts.removed, {f"{outcome.step}: {outcome.reason}": 1})
            if _sampled(str(item.row.get("id")), self._keep_removed):
                shown = says(item.row)[:4000]
                self._removed.append({**_left_out(item, outcome), "text": shown})
            return
        facts.kept += 1
        self._write_old(before=item.place)
        for row in outcome.rows:
            self._write({**row, PLACE: item.place})

    def _write_old(self, before: float) -> None:
        while self._next_old is not None and self._next_old[PLACE] < before:
            self._write(self._next_old)
            self._next_old = next(self._old, None)

    def _write(self, row: Row) -> None:
        self.facts.rows_out += 1
        self._group.append(row)
        if len(self._group) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._group:
            self._parquet.write_table(table_of(self._group, self._columns, self._schema))
            self._group = []

    def close(self) -> ShardFacts:
        """Put the files in their places; the facts come last."""
        self._write_old(before=float("inf"))
        self._flush()
        self._parquet.close()
        facts = self.facts
        if self._again is not None:
            facts = _merged(self._again, facts, len(self._retried))
        facts.check()
        with self._half.open("rb") as file:
            facts.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        facts.bytes = self._half.stat().st_size
        put_in_place(self._half, self._file)
        removed = self._removed
        if self._again is not None:
            kept = read_json_lines(_beside(self._stage, "removed", facts.shard))
            removed = sorted(
                [*(r for r in kept if r["row"] not in self._retried), *removed],
                key=lambda row: int(row["row"]),
            )
        _write_lines(_beside(self._stage, "removed", facts.shard), removed)
        _write_lines(_beside(self._stage, "failed", facts.shard), self._failed)
        write_durably(self._file.with_suffix(".json"), json_text(asdict(facts), indent=1) + "\n")
        return facts

    def abandon(self) -> None:
        """Leave nothing behind, where something went wrong."""
        self._parquet.close()
        self._half.unlink(missing_ok=True)


def _merged(old: ShardFacts, new: ShardFacts, retried: int) -> ShardFacts:
    """The facts of the whole shard once rows that had failed were tried again."""
    assert new.rows_in == retried, f"{new.rows_in} of {retried} failed rows were tried again"
    kept_before = ShardFacts(**{**asdict(old), "failed": {}, "rows_out": 0})
    both = total([kept_before, new])
    both.shard, both.unit, both.rows_in = old.shard, old.unit, old.rows_in
    both.failed_places = new.failed_places
    return both


def _left_out(item: Item, outcome: Removed | Failed) -> Row:
    return {
        **{"row": item.place, "id": str(item.row.get("id"))},
        **{"step": outcome.step, "reason": outcome.reason},
    }


def _sampled(identity: str, share: float) -> bool:
    """The same rows in every run: by a digest of the id."""
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def says(row: Row) -> str:
    """What a row says: its text, or all of its messages, reasoning and calls included."""
    for column in ("text", "html"):
        if isinstance(row.get(column), str):
            return str(row[column])
    return said_in(row.get("messages") or [])


def schema_of(columns: Columns) -> pa.Schema:
    """The Arrow schema of the columns and of `row`."""
    fields = [pa.field(name, _ARROW[kind]) for name, kind in columns.items()]
    found = pa.schema([*fields, pa.field(PLACE, pa.int64())])
    return found.with_metadata({_METADATA: json.dumps(columns).encode()})


def table_of(rows: Sequence[Row], columns: Columns, schema: pa.Schema) -> pa.Table:
    """The rows as a table. A key that is not a declared column is a mistake of ours."""
    for row in rows:
        unknown = [key for key in row if key not in columns and key != PLACE]
        assert not unknown, (
            f"column {unknown[0]!r} was not declared; declared: {', '.join(columns)}"
        )
    data = {
        name: [_written(row.get(name), columns.get(name, "whole")) for row in rows]
        for name in schema.names
    }
    return pa.table(data, schema=schema)


def _written(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "json":
        return characters(json_text(value, sort_keys=True, default=str))
    if kind == "messages":
        return [_message(m) for m in value]
    return characters(value) if kind == "text" else value


def characters(text: str) -> str:
    """The text without lone surrogates, which are no characters: files are UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the columns of `_MESSAGE`: calls, and what a tool gave back, as JSON where they are values."""
    out = dict(message)
    for key, value in message.items():
        if key in ("content", "tool_calls") and not isinstance(value, str | None):
            out[key] = characters(json_text(value, default=str))
        elif isinstance(value, str):
            out[key] = characters(value)
    return out


def shard_path(stage: Path, number: int) -> Path:
    """Where a shard of this number lies."""
    return stage / "shards" / f"{number:05d}.parquet"


def _beside(stage: Path, what: str, number: int) -> Path:
    return stage / what / f"{number:05d}.jsonl"


def shard_facts(stage: Path, number: int) -> ShardFacts | None:
    """The facts of a shard that is whole; None where it is to be made."""
    file = shard_path(stage, number)
    facts = file.with_suffix(".json")
    if not facts.is_file() or not file.is_file():
        return None
    return ShardFacts(**read_json(facts))


def shard_files(stage: Path) -> list[Path]:
    """The shards of a stage, in order. Raises: UserError where it has none."""
    found = sorted((stage / "shards").glob("*.parquet"))
    if not found:
        raise UserError(f"stage {stage.name!r} has no shards; name a stage that makes rows")
    return found


def columns_of(stage: Path) -> Columns:
    """The declared columns of a stage's shards."""
    file = shard_files(stage)[0]
    metadata = pq.read_schema(file).metadata or {}
    if _METADATA not in metadata:
        raise UserError(f"{file} was not written by a data stage; use a source of type parquet")
    return Columns(json.loads(metadata[_METADATA]))


def read_shard(file: Path, *, with_place: bool = False) -> Iterator[Row]:
    """The rows of a shard, a row group in memory at a time; JSON columns are values again."""
    opened = pq.ParquetFile(file)
    columns = json.loads((opened.schema_arrow.metadata or {}).get(_METADATA, b"{}"))
    for group in range(opened.num_row_groups):
        for row in opened.read_row_group(group).to_pylist():
            yield {
                key: _read(value, columns.get(key, ""))
                for key, value in row.items()
                if with_place or key != PLACE
            }


def _read(value: Any, kind: str) -> Any:
    if value is None or kind not in ("json", "messages"):
        return value
    if kind == "json":
        return json.loads(value)
    return [{k: _call(k, v) for k, v in m.items() if v is not None} for m in value]


def _call(key: str, value: Any) -> Any:
    return json.loads(value) if key == "tool_calls" else value


def put_in_place(half: Path, whole: Path) -> None:
    """Sync a finished file, rename it, and sync its folder: after that no power cut loses it."""
    with half.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(half, whole)
    folder = os.open(whole.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_durably(path: Path, text: str) -> None:
    """Write a text file by `put_in_place`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    half.write_text(text, encoding="utf-8")
    put_in_place(half, path)


def _write_lines(path: Path, rows: Sequence[Row]) -> None:
    if rows:
        write_durably(path, characters("".join(f"{json_text(row)}\n" for row in rows)))
    else:
        path.unlink(missing_ok=True)
