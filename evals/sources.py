"""Where a benchmark's data comes from: a file of the user's, an installed package, or the hub."""

import csv
import importlib.util
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_mix.hub import must_answer
from workbench.apart import INSTALL, apart_folder
from workbench.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class Loading:
    """What a benchmark is loaded with. data: the folder of the user's files. limit: most questions
    (of each category); None is all. tokenizer: the model's, for benchmarks made to a length."""

    data: Path
    limit: int | None = None
    tokenizer: Any = None


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub."""

    id: str
    config: str | None = None
    split: str = "test"

    def __str__(self) -> str:
        parts = ", ".join(part for part in (self.config, self.split) if part)
        return f"{self.id} ({parts})"


def package_folder(package: str, benchmark: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises: UserError that says how to install it.
    """
    if (apart := apart_folder(package)) is not None:
        return apart
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"benchmark {benchmark!r} reads the package {package!r}, which is not installed; "
            f"{INSTALL}"
        )
    return Path(next(iter(found.submodule_search_locations)))


def json_lines(path: Path) -> list[Row]:
    """The rows of a JSON-lines file."""
    if not path.is_file():
        raise UserError(f"{path} is missing; reinstall the package, or the file")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def rows_of(name: str, loading: Loading, hub: Hub, columns: Sequence[str]) -> list[Row]:
    """The rows of a benchmark: the user's file data/NAME.jsonl (.json, .csv, .parquet), else the hub.

    Raises: UserError that names the columns and where to put the file.
    """
    for suffix in (".jsonl", ".json", ".csv", ".parquet"):
        path = loading.data / f"{name}{suffix}"
        if path.is_file():
            return _checked(_read(path), columns, str(path))
    return _checked(_from_hub(name, loading, hub, columns), columns, str(hub))


def _read(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: PLC0415 - heavy

        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    try:
        if path.suffix == ".jsonl":
            return json_lines(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    return list(found)


def _from_hub(name: str, loading: Loading, hub: Hub, columns: Sequence[str]) -> list[Row]:
    import datasets  # noqa: PLC0415 - heavy

    instead = f"put its rows at {loading.data / name}.jsonl with the columns {', '.join(columns)}"
    must_answer(f"benchmark {name!r}: the hub's {hub}", instead)
    try:
        found = datasets.load_dataset(hub.id, hub.config, split=hub.split)
    except Exception as error:  # noqa: BLE001 - the hub fails in many ways; all mean: no data
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"benchmark {name!r}: the hub's {hub} cannot be loaded ({why}); {instead}"
        ) from None
    return [dict(row) for row in found]


def _checked(rows: list[Row], columns: Iterable[str], where: str) -> list[Row]:
    if not rows:
        raise UserError(f"{where} holds no rows")
    for column in columns:
        if column not in rows[0]:
            raise UserError(f"{where} has no column {column!r}; it has: {', '.join(rows[0])}")
    return rows
