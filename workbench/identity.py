"""Ids of rows: one rule. A row without an id is known by its place; null, blank or used twice is refused.

Groups, pairs, anchors, seeds and intervals go by ids: two rows of one id would be mixed without a sign.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from workbench.errors import UserError

_FIX = "give every row an id of its own, or leave the ids out of all rows"


def row_id(row: Mapping[str, Any], *, where: str, key: str = "id") -> str:
    """The row's id as text; its place `where` in the file stands in for one that is missing.

    Raises: UserError where the id is null, blank, or neither text nor a whole number.

    >>> row_id({"id": 7}, where="a.jsonl, line 3"), row_id({}, where="a.jsonl, line 3")
    ('7', 'a.jsonl, line 3')
    """
    if key not in row:
        return where
    given = row[key]
    whole = isinstance(given, int) and not isinstance(given, bool)
    if not (whole or (isinstance(given, str) and given.strip())):
        shown = "null" if given is None else f"{given!r:.60}"
        raise UserError(f"{where}: {key} is {shown}, neither text nor a whole number; {_FIX}")
    return str(given)


def used_twice(ids: Iterable[str], places: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(its number, what is wrong) of each row whose id an earlier row has."""
    first: dict[str, str] = {}
    for number, (identity, place) in enumerate(zip(ids, places, strict=True)):
        if identity in first:
            yield number, f"id {identity!r:.80} is also that of {first[identity]}; {_FIX}"
        first.setdefault(identity, place)


def must_be_own(ids: Sequence[str], *, what: str, places: Sequence[str] | None = None) -> None:
    """Raises: UserError naming two rows of one id. Without `places` a row is known by its number."""
    known = places if places is not None else [f"row {n}" for n in range(1, len(ids) + 1)]
    for number, problem in used_twice(ids, known):
        raise UserError(f"{what}: {known[number]}: {problem}")
