"""Files elsewhere, through fsspec: s3://, gs://, hf:// and whatever else it opens, as copies in the cache.

Rows are read at random, many times, so each file is copied once, and again where it has changed.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from workbench.errors import UserError, one_line
from workbench.files import whole_file

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::[^:/]+)*://")
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}


def is_remote(pattern: str) -> bool:
    """Whether a path or glob is a URL.

    >>> is_remote("s3://bucket/*.jsonl"), is_remote("data/a.jsonl")
    (True, False)
    """
    return _URL.match(pattern) is not None


def must_be_openable(pattern: str) -> None:
    """Asks nobody. Raises: UserError where fsspec does not know the protocol, or lacks its package."""
    from fsspec import get_filesystem_class  # noqa: PLC0415 - only for URLs

    protocol = pattern.partition("://")[0]
    try:
        get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        install = f"; pip install {_PACKAGES[protocol]}" if protocol in _PACKAGES else ""
        raise UserError(f"{pattern!r} cannot be opened ({one_line(error)}){install}") from None


def remote_files(pattern: str) -> list[tuple[str, str]]:
    """(URL, a key that changes with its content) of each file of a URL or glob, sorted; none: no match.

    Raises: UserError where the place does not answer or may not be read.
    """
    must_be_openable(pattern)
    system, path = _system(pattern)
    try:
        found = system.glob(path) if any(c in path for c in "*?[") else [path]
        files = [name for name in found if system.isfile(name)]
        return [(system.unstrip_protocol(name), _key(system, name)) for name in sorted(files)]
    except Exception as error:  # noqa: BLE001 - of many kinds, by client and transport
        raise UserError(
            f"{pattern!r} cannot be read ({one_line(error)[:200]}); check the network and the "
            "credentials, or copy the files here"
        ) from None


def local_copies(pattern: str) -> list[Path]:
    """The files of a URL or glob in the cache, copied where they are not there yet. Raises: UserError."""
    out = []
    for url, key in remote_files(pattern):
        folder = _cache() / hashlib.sha256(f"{url} {key}".encode()).hexdigest()[:24]
        target = folder / Path(url).name
        if not target.is_file():
            _copy(url, target)
        out.append(target)
    return out


def _copy(url: str, target: Path) -> None:
    """The file appears whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    system, path = _system(url)
    try:
        with whole_file(target) as half:
            system.get_file(path, str(half))
    except Exception as error:  # noqa: BLE001 - see remote_files
        raise UserError(f"{url} cannot be copied ({one_line(error, 200)})") from None


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # noqa: PLC0415 - only for URLs

    try:
        system, path = url_to_fs(url)
    except Exception as error:  # noqa: BLE001 - see remote_files
        raise UserError(f"{url!r} cannot be opened ({one_line(error)[:200]})") from None
    return system, str(path)


def _key(system: Any, path: str) -> str:
    return str(system.ukey(path))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "anneal" / "files"
