"""Conditions on the columns of a row: `where` of a source, `keep` of a step. Imports nothing heavy.

A condition is a value (`en`), a list of values (`[en, de]`), or a comparison in quotes (`">=4"`,
`"!=spam"`). A row whose column is null meets no condition but `"!=..."`. `>=`, `<=`, `>` and `<` compare
numbers, which may stand as text; other text is neither above nor below a number, and meets none of the four.
"""

import operator
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

from workbench.errors import UserError

Condition = str | int | float | bool | list[str | int | float]
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{">=": operator.ge, "<=": operator.le, "!=": operator.ne},
    **{">": operator.gt, "<": operator.lt, "=": operator.eq},
}
_TRUTHS = {"true": True, "false": False}
_NUMBERS = (int, float, Decimal)  # true and false are numbers too


def meets(value: Any, condition: Condition) -> bool:
    """Whether one value meets a condition.

    >>> meets(4.5, ">=4"), meets("en", ["de", "en"]), meets(None, "<3")
    (True, True, False)
    """
    if isinstance(condition, list):
        return value in condition
    if isinstance(condition, str):
        for sign, holds in _COMPARISONS.items():
            if condition.startswith(sign):
                return _holds(holds, value, condition[len(sign) :].strip(), sign)
    return bool(value == condition)


def _holds(holds: Callable[[Any, Any], bool], value: Any, wanted: str, sign: str) -> bool:
    if value is None:
        return sign == "!="
    if sign not in ("=", "!="):
        number = _number(value)
        return number is not None and holds(number, float(wanted))
    if isinstance(value, _NUMBERS):
        return holds(_number(value), _literal(wanted))
    return holds(str(value), wanted)


def _number(value: Any) -> float | None:
    """The number that a value is, or that a text holds; None: no number."""
    try:
        return float(value) if isinstance(value, (*_NUMBERS, str)) else None
    except (ValueError, OverflowError):
        return None


def _literal(wanted: str) -> bool | float | str:
    """What is written behind a sign, for a column of numbers or of true and false."""
    if wanted.lower() in _TRUTHS:
        return _TRUTHS[wanted.lower()]
    number = _number(wanted)
    return wanted if number is None else number


def all_met(row: Mapping[str, Any], where: Mapping[str, Condition]) -> bool:
    """Whether a row meets every condition. A column that it lacks is null."""
    return all(meets(row.get(column), condition) for column, condition in where.items())


def check_columns(
    where: Mapping[str, Condition], columns: Collection[str], *, name: str, place: str
) -> None:
    """Raises: UserError where the source `name` names a column that what stands at `place` has not."""
    missing = [column for column in where if column not in columns]
    if missing:
        raise UserError(
            f"source {name!r}: where names column {missing[0]!r}, which {place} has not; its "
            f"columns are: {', '.join(columns)}"
        )


def check_conditions(where: dict[str, Condition]) -> dict[str, Condition]:
    """Raises: ValueError naming the first condition that cannot be meant."""
    for column, condition in where.items():
        if problem := problem_of(condition):
            raise ValueError(f"where.{column}: {condition!r} {problem}")
    return where


def problem_of(condition: Condition) -> str | None:
    """Why a condition cannot be meant, or None.

    >>> problem_of(">=")
    "compares with nothing; write for example '>=4'"
    """
    if not isinstance(condition, str):
        return None
    sign = next((s for s in _COMPARISONS if condition.startswith(s)), None)
    if sign is None:
        return None
    wanted = condition[len(sign) :].strip()
    if not wanted:
        return f"compares with nothing; write for example '{sign}4'"
    if sign in ("=", "!="):
        return None
    try:
        float(wanted)
    except ValueError:
        return f"compares with {wanted!r}, which is not a number"
    return None
