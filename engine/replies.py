"""Replies by digest: appended as they come, read back after any kind of end."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from workbench.provenance import digest
from workbench.rundir import json_text, read_json_lines

Row = dict[str, Any]


def reply_key(model: str, messages: Any, tools: Any, sampling: dict[str, Any], seed: int) -> str:
    """What a reply depends on: the model, the prompt, the sampling and the sample's own seed."""
    return digest([model, messages, tools, sampling, seed])


class ReplyLog:
    """One file of replies. A line that a death cut short is passed over, and the next one starts anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.rows: dict[str, Row] = {
            row["key"]: row for row in read_json_lines(path) if "key" in row
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if path.stat().st_size and not _ends_a_line(path):
            self._file.write(b"\n")

    def get(self, key: str) -> Row | None:
        """The reply under this key."""
        return self.rows.get(key)

    def add(self, row: Row) -> None:
        """Keep a reply. Thread-safe; it survives this process from here on."""
        try:
            line = (json_text(row) + "\n").encode()
        except UnicodeEncodeError:  # a lone surrogate, which a byte-level vocabulary can spell
            line = (json.dumps(row) + "\n").encode()
        with self._lock:
            self.rows[row["key"]] = row
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
