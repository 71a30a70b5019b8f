"""Whether what a stage reads from outside the run is still the same: files and folders by content.

A field of a recipe that names something to read is marked with `Reads`. The digest of a file is
remembered with its size and times, so that an unchanged file is not read again.
"""

import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel

from workbench.custom_code import is_own
from workbench.files import write_whole
from workbench.local_imports import imported_files
from workbench.remote import is_remote, remote_files

_CACHE = ".content.json"
# A file may be written twice within one tick of the disk's clock. Digests of files that changed so
# lately are not remembered.
_SETTLED_S = 2.0
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class Reads:
    """Mark of a field whose value names something that a stage reads.

    files: a path, glob or URL. checkpoint: a folder, or a hub id. tokenizer: the same, without weights.
    dataset: a hub id. package: the version of the distribution `name`, whatever the field's value.
    function: FILE.py:NAME or package.module:NAME, of which the file counts, and what it imports beside it.
    stage: a stage of `needs`, or a list; the running stage finds its folder there (`bound`).
    A section with a hub id has a field `revision`.
    """

    what: Literal["files", "checkpoint", "tokenizer", "dataset", "package", "function", "stage"]
    name: str = ""

    def on_hub(self, value: Any) -> bool:
        """Whether the value names something on the hub rather than on this machine."""
        if self.what in ("checkpoint", "tokenizer"):
            return not Path(str(value)).expanduser().is_dir()
        return self.what == "dataset"


ABSENT = "absent"
Mark = tuple[Reads, Any]


def places_read(config: BaseModel) -> Iterator[Mark]:
    """(mark, value) of every marked field that is set, in the sections below too."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        for mark in field.metadata:
            if isinstance(mark, Reads) and value is not None and _is_place(mark, value):
                yield mark, value
        yield from _below(value)


def _is_place(mark: Reads, value: Any) -> bool:
    """A name of ours may stand where a function of the user's own could."""
    return mark.what != "function" or is_own(str(value))


def stages_named(value: str | list[str]) -> list[str]:
    """The stages in a field that is marked as `stage`: one, or a list of them."""
    return value if isinstance(value, list) else [value]


def _below(value: Any) -> Iterator[Mark]:
    if isinstance(value, BaseModel):
        yield from places_read(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _below(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _below(inner)


def pinned(config: BaseModel, commit: Callable[[Reads, str], str | None]) -> BaseModel:
    """The configuration with a commit at every hub id that has none; null where it stays unknown."""

    def change(section: BaseModel, _: str, mark: Reads, value: Any) -> dict[str, Any]:
        if mark.on_hub(value) and getattr(section, "revision", "") is None:
            return {"revision": commit(mark, str(value))}
        return {}

    return cast(BaseModel, _changed(config, change))


def bound(config: BaseModel, folders: Mapping[str, Path]) -> BaseModel:
    """The configuration with the folder of each stage in place of its name."""

    def change(_: BaseModel, key: str, mark: Reads, value: Any) -> dict[str, Any]:
        if mark.what != "stage":
            return {}
        found = [str(folders.get(name, name)) for name in stages_named(value)]
        return {key: found if isinstance(value, list) else found[0]}

    return cast(BaseModel, _changed(config, change))


def _changed(value: Any, change: Callable[[BaseModel, str, Reads, Any], dict[str, Any]]) -> Any:
    """The value with what `change` says of every marked field; itself where nothing changes."""
    if isinstance(value, BaseModel):
        updates: dict[str, Any] = {}
        for key, field in type(value).model_fields.items():
            found = getattr(value, key)
            marks = [m for m in field.metadata if isinstance(m, Reads) and found is not None]
            for mark in marks:
                updates |= change(value, key, mark, found)
            if (inner := _changed(found, change)) is not found:
                updates[key] = inner
        return value.model_copy(update=updates) if updates else value
    if isinstance(value, dict):
        made: Any = {key: _changed(inner, change) for key, inner in value.items()}
        return made if any(made[key] is not value[key] for key in made) else value
    if isinstance(value, list | tuple):
        made = type(value)(_changed(inner, change) for inner in value)
        return made if any(a is not b for a, b in zip(made, value, strict=True)) else value
    return value


class Contents:
    """Digests of what stages read. `folder`: where they are remembered, the run's own folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _CACHE
        self._known = _read(self._path)
        self._new: dict[str, list[Any]] = {}

    def of(self, mark: Reads, value: Any) -> tuple[str, str]:
        """(what the place is called, digest of what is there now); ABSENT where nothing is."""
        if mark.what == "package":
            return f"package {mark.name}", _version(mark.name)
        if mark.what == "files" and is_remote(str(value)):
            keys = remote_files(str(value))
            return str(value), _short(keys) if keys else ABSENT
        pattern = os.path.expanduser(
            _file_of(str(value)) if mark.what == "function" else str(value)
        )
        skip = _WEIGHTS if mark.what == "tokenizer" else ()
        found = [file for path in _matches(pattern) for file in _files(path, skip)]
        if mark.what == "function":
            found += [(str(p), p) for _, file in found for p in imported_files(file)]
        if not found:
            return str(value), ABSENT
        parts = [[name, self._digest(path)] for name, path in found]
        return str(value), _short(parts)

    def save(self) -> None:
        """Remember the digests that were computed. Nothing happens where the folder is not there."""
        if not self._new or not self._path.parent.is_dir():
            return
        whole = _read(self._path) | self._new  # another stage may have saved meanwhile
        with suppress(OSError):  # it only saves time
            write_whole(self._path, json.dumps(whole))
            self._new = {}

    def _digest(self, path: Path) -> str:
        try:
            stat = path.stat()
            key = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            name = str(path.absolute())
            for known in (self._new, self._known):
                if name in known and known[name][:-1] == key:
                    return str(known[name][-1])
            found = _hash(path)
        except OSError as error:
            return f"unreadable: {error.strerror}"
        changed_at = max(stat.st_mtime, stat.st_ctime)
        if time.time() - changed_at > _SETTLED_S:
            self._new[name] = [*key, found]
        return found


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _matches(pattern: str) -> list[Path]:
    if os.path.exists(pattern):  # a name may have brackets in it
        return [Path(pattern)]
    return sorted(map(Path, glob.glob(pattern, recursive=True)))


def _files(path: Path, skip: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(name, path) of a file, or of all files in a folder but hidden ones and those of `skip`."""
    if path.is_file():
        yield str(path), path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            whole = Path(folder) / name
            if not name.startswith(".") and not name.endswith(skip) and whole.is_file():
                yield str(whole.relative_to(path)), whole


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ABSENT


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 5}
    except (OSError, ValueError, AttributeError):  # it only saves time
        return {}


def _file_of(function: str) -> str:
    """The file of FILE.py:NAME or package.module:NAME, which may lie beside where the command is given."""
    place = function.rpartition(":")[0]
    if place.endswith(".py"):
        return place
    try:
        spec = find_spec(place)
    except (ImportError, ValueError):  # a parent that is not there, or is not a package
        spec = None
    here = Path(*place.split(".")).with_suffix(".py")
    return str(spec.origin) if spec is not None and spec.origin else str(here)
