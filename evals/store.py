"""samples.jsonl of one benchmark: appended as replies finish, read back after any kind of end."""

import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.rundir import read_json_lines

Row = dict[str, Any]
_KEPT = ".kept.jsonl"


class SampleStore:
    """Rows of one results folder, found by their `key`.

    The file has the rows of the present settings only. Rows of others (a larger limit, another seed)
    are moved to a hidden file beside it and found there when they are asked for again.
    """

    def __init__(self, folder: Path, others: Iterable[Path] = ()) -> None:
        self.folder, self._others = folder, list(others)
        self.path = folder / "samples.jsonl"
        self._lock = threading.Lock()

    def find(self, keys: set[str]) -> dict[str, Row]:
        """The rows under these keys, wherever an earlier run left them: scored ones, and replies whose
        check failed. Of two in one file the later one, which was judged later, counts."""
        scored: dict[str, Row] = {}
        unscored: dict[str, Row] = {}
        for folder in [self.folder, *self._others]:
            for path in (folder / "samples.jsonl", folder / _KEPT):
                own = {row["key"]: row for row in read_json_lines(path) if row.get("key") in keys}
                for key, row in own.items():
                    if row.get("value") is not None:
                        scored.setdefault(key, row)
                    elif row.get("finish_reason") != "error" and "turns" not in row:
                        unscored.setdefault(key, row)
        return {**unscored, **scored}

    def begin(self, rows: Sequence[Row]) -> None:
        """Start from these rows; what else the file held is kept aside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = {row["key"] for row in rows}
        kept = {r["key"]: r for r in read_json_lines(self.folder / _KEPT) if "key" in r}
        old = [r for r in read_json_lines(self.path) if r.get("value") is not None and "key" in r]
        dropped = {r["key"]: r for r in old if r["key"] not in keys and r["key"] not in kept}
        if dropped:
            _write(self.folder / _KEPT, [*kept.values(), *dropped.values()])
        _write(self.path, rows)

    def append(self, row: Row) -> None:
        """Add a row. Thread-safe; it survives this process from here on."""
        line = _line(row)
        with self._lock, self.path.open("ab") as lines:
            lines.write(line)

    def finish(self, rows: Sequence[Row]) -> None:
        """Replace the file by all rows in their order, whatever order they finished in."""
        _write(self.path, rows)


def _line(row: Row) -> bytes:
    # Lone surrogates, which a byte-level vocabulary can spell, do not encode; escapes do.
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode()


def _write(path: Path, rows: Iterable[Row]) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}")
    with half.open("wb") as lines:
        lines.writelines(_line(row) for row in rows)
    os.replace(half, path)
