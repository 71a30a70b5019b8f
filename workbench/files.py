"""Files that appear whole or not at all, also where the process is killed while it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` when the block ends without an error.

    sync: the bytes are on the disk before that, for what a power cut must not halve.
    Raises: OSError on a full disk; then nothing is left.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield half
        if sync:
            with half.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8. errors: what happens to a lone surrogate."""
    with whole_file(path) as half:
        half.write_text(text, encoding="utf-8", errors=errors)
