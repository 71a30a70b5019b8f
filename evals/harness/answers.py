"""What the engine has answered the harness, kept as it comes: the next run asks for the rest."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.rundir import read_json_lines

FILE = "requests.jsonl"


class Answers:
    """Answers by key, backed by a file that is only ever appended to."""

    def __init__(self, folder: Path, others: Iterable[Path] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._found: dict[str, Any] = {}
        for path in [*(other / FILE for other in others), self._path]:
            for row in read_json_lines(path):
                if "key" in row and "answer" in row:
                    self._found[row["key"]] = row["answer"]
        self.num_kept, self.num_asked = len(self._found), 0
        if self._path.is_file() and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("ab") as lines:  # a line that a kill has torn
                lines.write(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> Any:
        """The answer; None where there is none."""
        return self._found.get(key)

    def keep(self, key: str, answer: Any) -> None:
        """Add an answer; it survives this process from here on."""
        self._found[key] = answer
        self.num_asked += 1
        with self._path.open("ab") as lines:
            lines.write((json.dumps({"key": key, "answer": answer}) + "\n").encode())
