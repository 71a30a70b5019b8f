"""Benchmark questions in a user's own file: its rows with their places, and what each column holds.

JSONL is read as training sources read it. CSV is read as spreadsheets write it: any of four separators,
a byte order mark, empty rows and columns at the end. Whatever cannot be read is refused with its place.
"""

import ast
import csv
import io
import json
import math
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_mix.files import json_object, lines_of
from data_mix.messages import without_padding
from workbench.errors import UserError

Row = dict[str, Any]
Placed = tuple[str, Row]
"""Where a row stands, and the row."""
Read = Callable[[Any], Any]
"""Reads a column's value. Raises: ValueError that says what it has to be."""

_ZIP = b"PK\x03\x04"
_SEPARATORS = ",;\t|"
_LIST_SEPARATORS = "\n|;"
_SHOWN = 60


def read_rows(path: Path) -> list[Placed]:
    """Every row of a .jsonl, .json, .csv or .parquet file. Raises: UserError naming the place."""
    try:
        return list(_READERS[path.suffix](path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def read_columns(rows: list[Placed], columns: Mapping[str, Read]) -> list[Row]:
    """The rows with their columns read. Raises: UserError naming the row and the column."""
    if rows:
        missing = [column for column in columns if all(column not in row for _, row in rows)]
        if missing:
            where, has = rows[0][0], ", ".join(map(str, rows[0][1]))
            raise UserError(f"{where} has no column {missing[0]!r}; it has: {has}")
    found = []
    for where, row in rows:
        read = dict(row)
        for column, reader in columns.items():
            try:
                read[column] = reader(row.get(column))
            except ValueError as error:
                shown = json.dumps(row.get(column), default=str, ensure_ascii=False)[:_SHOWN]
                raise UserError(f"{where}: {column} is {shown}; {error}") from None
        found.append(read)
    return found


def jsonl_rows(path: Path) -> Iterator[Placed]:
    """The rows of a JSON-lines file, whatever it is called."""
    for number, _, line in lines_of(path):
        where = f"{path}, line {number}"
        yield where, json_object(line, where=where)


def _json(path: Path) -> Iterator[Placed]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); one object a line is .jsonl") from None
    if not isinstance(found, list):
        raise UserError(f"{path} holds a {type(found).__name__}; give a list of objects")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, item {number} is a {type(row).__name__}; give an object")
        yield f"{path}, item {number}", row


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow.parquet  # noqa: PLC0415 - heavy

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a Parquet file ({error})") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", {key: without_padding(value) for key, value in row.items()}


def _csv(path: Path) -> Iterator[Placed]:
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep="):  # a spreadsheet's note to itself
        separator, skipped, text = first.strip().strip('"')[4:] or ",", 1, rest
    else:
        fields = {s: len(next(csv.reader([first], delimiter=s), [])) for s in _SEPARATORS}
        separator, skipped = max(_SEPARATORS, key=fields.__getitem__), 0
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(lines, [])]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path} has two columns {twice!r}; rename one")
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield _csv_row(names, cells, f"{path}, line {lines.line_num + skipped}")
    except csv.Error as error:
        where = f"{path}, line {lines.line_num + skipped}"
        raise UserError(f"{where} is not CSV ({error}); quote texts with line breaks") from None


def _csv_row(names: list[str], cells: list[str], where: str) -> Placed:
    if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
        raise UserError(
            f"{where} has {len(cells)} cells, the first line names {len(names)}; quote texts that "
            "hold the separator"
        )
    named = zip(names, cells, strict=False)
    return where, {name: cell for name, cell in named if name}  # an index has no name


def _decoded(path: Path) -> str:
    whole = path.read_bytes()
    if whole.startswith(_ZIP):
        raise UserError(f"{path} is a spreadsheet and no CSV; save it as CSV in UTF-8")
    wide = whole[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return whole.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it as CSV in UTF-8") from None


_READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": jsonl_rows,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def anything(value: Any) -> Any:
    """A column that may be empty."""
    return value


def text(value: Any) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("give a text")
    return value


def answer(value: Any) -> str:
    """A text or a number, as text.

    >>> answer(7.0)
    '7'
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("give a text or a number")
    return value


def whole(value: Any) -> int:
    """A whole number; a spreadsheet's "3.0" is one.

    >>> whole("3.0")
    3
    """
    try:
        found = float(value) if isinstance(value, str) else value
        if isinstance(found, int | float) and not isinstance(found, bool) and found == int(found):
            return int(found)
    except (ValueError, OverflowError):
        pass
    raise ValueError("give a whole number")


def own_id(row: Mapping[str, Any], column: str, place: int) -> str:
    """A row's own id, or its place where it has none."""
    value = row.get(column)
    return str(place) if value is None or value == "" else answer(value)


def objects(value: Any) -> list[Any]:
    """A list with something in it, or the text of one (JSON, or as Python prints it)."""
    found = _value_of_text(value) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found:
        raise ValueError('give a list, in a CSV as JSON: ["first", "second"]')
    return list(found)


def mapping(value: Any) -> dict[str, Any]:
    """An object, or the JSON text of one; {} where there is nothing.

    >>> mapping('{"a": 1}'), mapping(None)
    ({'a': 1}, {})
    """
    found = _value_of_text(value) if isinstance(value, str) and value.strip() else value or {}
    if not isinstance(found, dict):
        raise ValueError('give an object, or the JSON text of one: {"name": "value"}')
    return found


def texts(value: Any) -> list[str]:
    """A list of texts; in one cell also by one of line break, | and ;, where only one occurs.

    >>> texts("Paris | Rome")
    ['Paris', 'Rome']
    """
    if isinstance(value, str) and not value.lstrip().startswith("["):
        used = [mark for mark in _LIST_SEPARATORS if mark in value.strip()]
        if len(used) != 1:
            raise ValueError('give a list, in a CSV as JSON: ["first", "second"]')
        value = [part.strip() for part in value.strip().split(used[0])]
    try:
        return [answer(item) for item in objects(value)]
    except ValueError as error:
        raise ValueError(f"{error}; each item a text with something in it") from None


def _value_of_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(value.strip())
        tokens = tokenize.generate_tokens(io.StringIO(value.strip()).readline)
        strings = sum(token.type == tokenize.STRING for token in tokens)
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    # As numpy prints a list there is no comma, and Python reads two texts as one.
    glued = isinstance(found, list) and all(isinstance(x, str) for x in found)
    return None if glued and strings != len(found) else found
