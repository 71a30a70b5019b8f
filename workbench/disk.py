"""A full disk, recognised in whatever shape a library reports it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from workbench.errors import UserError

_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rust (safetensors, tokenizers) gives the number in words; torch's writer gives no cause at all.
_WORDS = (*(f"os error {number}" for number in _ERRNOS), "No space left", "inline_container")


def is_full(error: BaseException | None) -> bool:
    """Whether a write failed for want of space, quota or file size, here or in a cause of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _ERRNOS:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_space(place: Path) -> UserError:
    """The line for a write that failed under `place`."""
    here = place.absolute()
    while not here.exists():
        here = here.parent
    return UserError(
        f"no disk space: a file under {place} could not be written in full "
        f"({shutil.disk_usage(here).free / 2**20:,.0f} MB free; a quota or a file size limit counts "
        "too); make room and run the same command again, which continues"
    )
