"""Whether what a stage reads is on this machine: files, their first row, packages. Before a run begins.

What a hub serves is not asked for. Imports no torch, and pyarrow only for Parquet sources.
"""

import os
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_mix.columns import no_column
from data_mix.config import (
    BfclSource,
    BlendConfig,
    CleanConfig,
    JsonlSource,
    ParquetSource,
    ReasoningSource,
)
from data_mix.documents import document_of
from data_mix.files import json_object, lines_of, matching_files
from workbench.errors import UserError
from workbench.remote import is_remote, must_be_openable
from workbench.schema import Section

LOOKED_AT = 10_000
"""Most rows of a local source that are looked at before a run begins and by --dry-run."""
_PACKAGES: dict[type[Section], tuple[str, str]] = {
    BfclSource: ("bfcl_eval", "`make setup`"),
    ReasoningSource: ("reasoning_gym", "`scripts/setup.sh real`"),
}


def check_data(config: Section, *, disjoint_rows: Collection[str] = ()) -> None:
    """Look at every source of a stage. Raises: UserError naming the source and what is missing.

    disjoint_rows: sources whose rows are looked at elsewhere, the first one too.
    """
    tokenizer = getattr(config, "from_pretrained", None)
    if tokenizer is not None:
        check_folder(tokenizer, what="tokenizer")
    for name, source in sources_in(config):
        if is_elsewhere(source):
            must_be_openable(str(getattr(source, "path", "")))
        elif isinstance(source, JsonlSource) and name in disjoint_rows:
            _files(name, source)
        elif isinstance(source, JsonlSource):
            first_row(name, source)
        elif isinstance(source, ParquetSource):
            _check_columns(name, source, _files(name, source)[0])
        if type(source) in _PACKAGES:
            check_package(*_PACKAGES[type(source)], what=f"source {name!r}")
        clean = getattr(source, "clean", None)
        if isinstance(clean, CleanConfig) and clean.decontaminate_against is not None:
            must_be_readable(
                clean.decontaminate_against, what=f"source {name!r}: decontaminate_against"
            )


def check_rows(config: Section) -> list[str]:
    """As `check_data`, and whether rows of local files can be read: up to LOOKED_AT of each, a line each.

    Raises: UserError naming the first that cannot.
    """
    from data_mix.sources import open_source  # noqa: PLC0415 - all kinds of sources

    check_data(config)
    lines = []
    for name, source in sources_in(config):
        if isinstance(source, JsonlSource | ParquetSource) and not is_elsewhere(source):
            opened = open_source(uncleaned(source), name=name, seed=0, lenient=True)
            held = opened.size or 0
            for document, _ in opened.look(min(held, LOOKED_AT)):
                if isinstance(document, UserError):
                    raise document
            lines.append(f"{name}: {min(held, LOOKED_AT):,} of {held:,} rows looked at")
    return lines


def is_elsewhere(source: Section) -> bool:
    """Whether a source's files are at a URL: a dry run does not ask for them."""
    return isinstance(source, JsonlSource | ParquetSource) and is_remote(source.path)


def uncleaned(source: JsonlSource | ParquetSource) -> JsonlSource | ParquetSource:
    """The same files with every row, whatever `clean` says."""
    return source.model_copy(update={"clean": CleanConfig()})


def sources_in(value: Any, name: str = "") -> Iterator[tuple[str, Section]]:
    """(name, section) of every part of a stage that has a `type`; sources of weight 0 are left out.

    The name is the one in the messages of a source that is opened: its part's or its key.
    """
    if isinstance(value, BlendConfig):
        used = {n for phase in value.phases for n, weight in phase.weights.items() if weight > 0}
        for key in used & set(value.sources):
            yield key, value.sources[key]
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from sources_in(inner, str(key))
    elif isinstance(value, Section):
        if "type" in type(value).model_fields:
            yield name, value
        for key in type(value).model_fields:
            yield from sources_in(getattr(value, key), name if key == "source" else key)


def check_folder(path: str, *, what: str) -> None:
    """Raises: UserError where a local folder does not exist. What may be a hub id is left alone."""
    first, slash, _ = path.partition("/")
    local = first in (".", "..", "~", "") or path.count("/") > 1 or (slash and Path(first).is_dir())
    if local and not Path(path).is_dir():
        raise UserError(f"{what}: no folder at {path!r}; check the path, or give a hub id ORG/NAME")


def check_package(package: str, install: str, *, what: str) -> None:
    """Raises: UserError where the package is not installed. It is not imported."""
    if find_spec(package) is None:
        raise UserError(
            f"{what} needs the package {package}, which is not installed; run {install}"
        )


def must_be_readable(path: str | Path, *, what: str) -> None:
    """Raises: UserError where this is not a file, or not one that may be read."""
    if not Path(path).is_file():
        raise UserError(f"{what}: no file at {str(path)!r}; check the path")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what}: {str(path)!r} may not be read; change its permissions")


def first_row(name: str, source: JsonlSource) -> dict[str, Any]:
    """The source's first row. Raises: UserError where there is none, or it is not a document."""
    found = next(filter(None, map(_first_line, _files(name, source))), None)
    if found is None:
        raise UserError(f"source {name!r}: none of its 0 rows is left; {source.path!r} is empty")
    where, line = f"source {name!r}: {found[0]}", found[1]
    row = json_object(line, where=where)
    document_of(row, source, where=where)
    return row


def _files(name: str, source: JsonlSource | ParquetSource) -> list[Path]:
    files = matching_files(source.path, name=name)
    for path in files:
        must_be_readable(path, what=f"source {name!r}")
    return files


def _first_line(path: Path) -> tuple[str, bytes] | None:
    found = next(lines_of(path), None)
    return None if found is None else (f"{path}, line {found[0]}", found[2])


def _check_columns(name: str, source: ParquetSource, path: Path) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - only where there is a Parquet source

    try:
        columns = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise UserError(f"source {name!r}: {path} is not a Parquet file ({error})") from None
    for column, needed in source.column_of().values():
        if needed and column not in columns:
            raise UserError(f"source {name!r}: {path} {no_column(column, columns)}")
