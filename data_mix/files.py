"""Local data files: those that a path or glob matches, and a line of JSON as an object."""

import codecs
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.remote import is_remote, local_copies


def files_of(pattern: str) -> list[Path]:
    """The files of a path, a glob or a URL, sorted; none where nothing matches. Of a URL copies here."""
    if is_remote(pattern):
        return local_copies(pattern)
    paths = map(Path, glob.glob(pattern, recursive=True))
    return sorted(path for path in paths if path.is_file())


def matching_files(pattern: str, *, name: str) -> list[Path]:
    """The files of a source's path or glob, sorted. Raises: UserError where there is none."""
    found = files_of(pattern)
    if not found:
        raise UserError(f"source {name!r}: no file matches {pattern!r}; check the path")
    return found


def lines_of(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, byte offset, line) of every line that is not blank: the one reader of JSONL.

    Only a line feed ends a line: U+2028 and its like are characters of JSON texts. A byte order mark is
    left in place, and `json_object` passes over it.
    """
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip() not in (b"", codecs.BOM_UTF8):
                yield number, offset, line
            offset += len(line)


def json_object(line: bytes, *, where: str) -> dict[str, Any]:
    """The object on a line. Raises: UserError naming the place where it holds none."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{where} cannot be read: its JSON is nested too deeply") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object but {type(row).__name__}")
    return row
