"""samples.jsonl of one benchmark: appended as replies finish, read back after any kind of end."""

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.files import whole_file
from workbench.records import RESULT, SAMPLES
from workbench.rundir import json_text, read_json_lines, utc_now

Row = dict[str, Any]
_KEPT = ".kept.jsonl"
_MORE = ".more.jsonl"
_ANEW = ".sampled-anew"


class SampleStore:
    """Rows of one results folder, found by their `key`.

    The file has the rows of the present settings only. Rows of others (another model, another seed)
    are moved to a hidden file beside it and found there when they are asked for again. While a result
    that stands is added to, new rows wait in a second hidden file, so that a stop leaves it whole.
    """

    def __init__(self, folder: Path, others: Iterable[Path] = ()) -> None:
        self.folder, self._others = folder, list(others)
        self.path = self._growing = folder / SAMPLES
        self._lock = threading.Lock()

    def sample_anew(self) -> None:
        """From now on take no reply over that was made before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _ANEW).write_text(utc_now(), encoding="utf-8")

    @property
    def anew_since(self) -> str:
        """When it was last asked to sample anew, here or before this folder was set aside; "" where
        never."""
        paths = [folder / _ANEW for folder in (self.folder, *self._others)]
        times = [path.read_text(encoding="utf-8").strip() for path in paths if path.is_file()]
        return max(times, default="")

    def result(self) -> dict[str, Any]:
        """The result that stands in the folder; empty where there is none that can be read."""
        try:
            found = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and "sampling" in found else {}

    def keys(self) -> set[str]:
        """The keys of the rows behind the result that stands; none where there is no result."""
        if not self.result():
            return set()
        return {row["key"] for row in read_json_lines(self.path) if "key" in row}

    def find(self, keys: set[str]) -> dict[str, Row]:
        """The rows under these keys, wherever an earlier run left them: scored ones, and replies whose
        check failed. Of two in one file the later one, which was judged later, counts."""
        scored: dict[str, Row] = {}
        unscored: dict[str, Row] = {}
        since = self.anew_since
        for folder in [self.folder, *self._others]:
            for path in (folder / _MORE, folder / SAMPLES, folder / _KEPT):
                own = {row["key"]: row for row in read_json_lines(path) if row.get("key") in keys}
                if since and folder != self.folder:
                    own = {k: row for k, row in own.items() if str(row.get("sampled_at")) > since}
                for key, row in own.items():
                    if row.get("value") is not None:
                        scored.setdefault(key, row)
                    elif row.get("finish_reason") != "error" and "turns" not in row:
                        unscored.setdefault(key, row)
        return {**unscored, **scored}

    def begin(self, rows: Sequence[Row], *, stands: bool = False) -> None:
        """Start from these rows; other rows are kept aside. stands: the folder's result and its rows
        stay until `finish`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        held = list(read_json_lines(self.folder / _MORE))
        if stands:
            self._growing = self.folder / _MORE
        else:
            (self.folder / RESULT).unlink(missing_ok=True)
            held = [*read_json_lines(self.path), *held]
        keys = {row["key"] for row in rows}
        kept = {r["key"]: r for r in read_json_lines(self.folder / _KEPT) if "key" in r}
        old = [r for r in held if r.get("value") is not None and "key" in r]
        dropped = {r["key"]: r for r in old if r["key"] not in keys and r["key"] not in kept}
        if dropped:
            _write(self.folder / _KEPT, [*kept.values(), *dropped.values()])
        _write(self._growing, rows)
        if not stands:
            (self.folder / _MORE).unlink(missing_ok=True)

    def append(self, row: Row) -> None:
        """Add a row. Thread-safe; it survives this process from here on."""
        line = _line(row)
        with self._lock, self._growing.open("ab") as lines:
            lines.write(line)

    def finish(self, rows: Sequence[Row]) -> None:
        """Replace the file by all rows in their order, whatever order they finished in. The result
        that stood is of fewer, or of other verdicts, and goes."""
        (self.folder / RESULT).unlink(missing_ok=True)
        _write(self.path, rows)
        (self.folder / _MORE).unlink(missing_ok=True)


def _line(row: Row) -> bytes:
    # Lone surrogates, which a byte-level vocabulary can spell, do not encode; escapes do.
    try:
        return (json_text(row) + "\n").encode()
    except UnicodeEncodeError:
        return (json_text(row, ensure_ascii=True) + "\n").encode()


def _write(path: Path, rows: Iterable[Row]) -> None:
    with whole_file(path) as half, half.open("wb") as lines:
        lines.writelines(_line(row) for row in rows)
