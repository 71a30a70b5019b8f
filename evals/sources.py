"""Where a benchmark's data comes from: a file of the user's, an installed package, or the hub."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_mix.messages import without_padding
from evals.custom_files import Placed, Read, Row, jsonl_rows, read_columns, read_rows
from workbench.errors import UserError, reason_of, some_of
from workbench.hub import must_answer
from workbench.identity import row_id, used_twice
from workbench.separate import INSTALL, separate_folder

# Columns that tell questions apart, by the names that benchmarks give them.
_IDS = ("id", "uid", "key", "task_id", "question_id", "problem_id")


@dataclass(frozen=True)
class Loading:
    """What a benchmark is loaded with. data: the folder of the user's files. limit: most questions
    (of each category); None is all. tokenizer: the model's, for benchmarks made to a length. judge:
    the judge's settings, for benchmarks that ask one."""

    data: Path
    limit: int | None = None
    tokenizer: Any = None
    judge: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub. file: the file of it that holds the rows, where the hub
    knows no configuration. columns: all that is read, where others need more packages."""

    id: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    file: str | None = None
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = self.file or ", ".join(part for part in (self.config, self.split) if part)
        return f"{self.id} ({parts})"


@dataclass(frozen=True)
class Data:
    """Where a benchmark's questions come from, and whether they are here.

    packages: modules that hold them (or prompts and checkers they need). files: names in the user's
    folder that stand in for the hub. only: names that must be in the user's folder. hub_only: nothing
    stands in for the hub but its own cache.
    """

    text: str
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    hub_only: bool = False

    def __str__(self) -> str:
        return self.text

    def status(self, folder: Path) -> str:
        """What there is on this machine, and what is missing; asks no network."""
        missing = [
            f"package {name} (scripts/setup.sh evals)"
            for name in self.packages
            if not _is_here(name)
        ]
        missing += [f"{folder / name}" for name in self.only if not (folder / name).is_file()]
        absent = [name for name in self.files if own_file(folder, name) is None]
        if absent:
            own = [f"{folder / name}.jsonl" for name in absent]
            missing.append(f"the hub, or {some_of(own, 1)}")
        if self.hub_only:
            missing.append("the hub, or its cache (HF_HOME)")
        return f"needs {'; '.join(missing)}" if missing else "here"


def _is_here(package: str) -> bool:
    try:
        package_folder(package, "")
    except UserError:
        return False
    return True


def package_folder(package: str, benchmark: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises: UserError that says how to install it.
    """
    if (apart := separate_folder(package)) is not None:
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
    return [row for _, row in jsonl_rows(path)]


Valid = Callable[[Row], None]
"""Looks at a whole row. Raises: ValueError that says what is wrong."""


def rows_of(
    name: str,
    loading: Loading,
    hub: Hub,
    columns: Mapping[str, Read],
    valid: Valid = lambda row: None,
) -> list[Row]:
    """The rows of a benchmark: the user's file data/NAME.jsonl (.json, .csv, .parquet), else the hub.

    Raises: UserError that names the columns and where to put the file, or the row that is wrong.
    """
    found = own_rows(name, loading, columns, valid)
    return from_hub(name, loading, hub, columns, valid) if found is None else found


def own_file(folder: Path, name: str) -> Path | None:
    """The user's file that stands in for a name of the hub; None without one."""
    paths = (folder / f"{name}{suffix}" for suffix in (".jsonl", ".json", ".csv", ".parquet"))
    return next((path for path in paths if path.is_file()), None)


def own_rows(
    name: str, loading: Loading, columns: Mapping[str, Read], valid: Valid = lambda row: None
) -> list[Row] | None:
    """The rows of the user's file; None without one. Raises: UserError naming the row that is wrong."""
    path = own_file(loading.data, name)
    return None if path is None else _checked(read_rows(path), columns, valid, str(path))


def package_text(package: str, path: str, benchmark: str) -> str:
    """A text file that a package ships. Raises: UserError that says how to install it."""
    found = package_folder(package, benchmark) / path
    if not found.is_file():
        raise UserError(
            f"benchmark {benchmark!r} reads {package}/{path} of a package that is not installed; "
            "run scripts/setup.sh evals"
        )
    return found.read_text(encoding="utf-8")


def from_hub(
    name: str,
    loading: Loading,
    hub: Hub,
    columns: Mapping[str, Read],
    valid: Valid = lambda row: None,
) -> list[Row]:
    """The rows of the hub's data set. Raises: UserError that says where to put them instead."""
    instead = f"put its rows at {loading.data / name}.jsonl with the columns {', '.join(columns)}"
    must_answer(f"benchmark {name!r}: the hub's {hub}", instead)
    try:
        rows = _downloaded(hub)
    except Exception as error:  # noqa: BLE001 - the hub fails in many ways; all mean: no data
        raise UserError(
            f"benchmark {name!r}: the hub's {hub} cannot be loaded ({reason_of(error, 120)}); {instead}"
        ) from None
    placed = [(f"{hub}, row {number}", row) for number, row in enumerate(rows, start=1)]
    return _checked(placed, columns, valid, str(hub))


def _downloaded(hub: Hub) -> list[Row]:
    if hub.file:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - heavy

        return json_lines(
            Path(hf_hub_download(hub.id, hub.file, repo_type="dataset", revision=hub.revision))
        )
    import datasets  # noqa: PLC0415 - heavy

    found = datasets.load_dataset(hub.id, hub.config, split=hub.split, revision=hub.revision)
    if hub.columns:
        # As they are stored: pictures would be decoded, with a package that text does not need.
        found = found.select_columns(list(hub.columns)).with_format("arrow")[:].to_pylist()
    return [{key: without_padding(value) for key, value in row.items()} for row in found]


def _checked(
    rows: list[Placed], columns: Mapping[str, Read], valid: Valid, where: str
) -> list[Row]:
    if not rows:
        raise UserError(f"{where} holds no rows")
    found = read_columns(rows, columns)
    for (place, _), row in zip(rows, found, strict=True):
        try:
            valid(row)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    places = [place for place, _ in rows]
    for column in (name for name in columns if name in _IDS):
        ids = [
            row_id(row, where=place, key=column) for place, row in zip(places, found, strict=True)
        ]
        for number, problem in used_twice(ids, places):
            raise UserError(f"{places[number]}: {problem}")
    return found
