"""Where math-verify takes a wrong answer for right: these say no. Each is listed in docs/rewards.md."""

import re
from typing import Any

from sympy import Basic, Eq, Interval, Tuple
from sympy.logic.boolalg import And
from sympy.sets.sets import FiniteSet

from reward.boxes import last_box

# Numbers that agree to math-verify's six decimals must agree in this share of their size too.
_RELATIVE = 5e-4
_DIGITS = 20
_UNITS = {
    "mm": "mm", "cm": "cm", "dm": "dm", "m": "m", "meter": "m", "metre": "m", "km": "km",
    "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm", "in": "in",
    "inch": "in", "inche": "in", "ft": "ft", "foot": "ft", "feet": "ft", "yd": "yd", "yard": "yd",
    "mi": "mi", "mile": "mi", "mg": "mg", "g": "g", "gram": "g", "kg": "kg", "kilogram": "kg",
    "ms": "ms", "s": "s", "sec": "s", "second": "s", "min": "min", "minute": "min", "h": "h",
    "hr": "h", "hour": "h", "day": "day", "week": "week", "month": "month", "year": "year",
    "ml": "ml", "mL": "ml", "l": "l", "L": "l", "liter": "l", "litre": "l", "J": "J", "kJ": "kJ",
    "W": "W", "kW": "kW", "Pa": "Pa", "kPa": "kPa", "mol": "mol", "mmol": "mmol", "N": "N", "kN": "kN",
    "cent": "cent", "dollar": "dollar", "euro": "euro",
}  # fmt: skip
_UNIT = re.compile(r"\d[\s})$]*?([A-Za-z]+)(?:\s?\^\s?\{?\d\}?)?[\s.})$]*$")
_WRAPPERS = re.compile(r"\\(?:text|mathrm|rm|mathbf)\s?|\\[,;:! ]|~")


def refuted(texts: tuple[str, str], gold: tuple[Any, ...], predicted: list[Any]) -> str:
    """Why an answer that math-verify takes for equal is not; "" where it may be.

    texts: reference and reply, as they were before it took units away.
    """
    if _other_unit(*map(_content, texts)):
        return "another unit"
    if _other_brackets(_text(gold).strip(), _text(predicted).strip()):
        return "a set for an ordered pair or an interval, or one for a set"
    for wanted in gold:
        for found in predicted:
            if isinstance(wanted, Basic) and isinstance(found, Basic):
                if _contradicts(found):
                    return "an equation of unequal numbers"
                if not _near(wanted, found):
                    return "equal in math-verify's six decimals only"
    return ""


def _content(text: str) -> str:
    box = last_box(text)
    return text if box is None else box.content or ""


def _text(parsed: Any) -> str:
    return next((part for part in parsed if isinstance(part, str)), "")


def _other_unit(gold: str, text: str) -> bool:
    one, other = _unit(gold), _unit(text)
    return one is not None and other is not None and one != other


def _unit(text: str) -> str | None:
    found = _UNIT.search(_WRAPPERS.sub(" ", text)[-100:].replace("{", " ").replace("}", " "))
    if not found:
        return None
    return _UNITS.get(found[1]) or _UNITS.get(found[1].removesuffix("s"))


def _other_brackets(gold: str, text: str) -> bool:
    def kind(written: str) -> str:
        written = written.replace("\\left", "").replace("\\right", "")
        if "," not in written:
            return ""
        if written.startswith("\\{") and written.endswith("\\}"):
            return "set"
        return "ordered" if written[:1] in ("(", "[") and written[-1:] in (")", "]") else ""

    return {kind(gold), kind(text)} == {"set", "ordered"}


def _contradicts(found: Basic) -> bool:
    """True for "4 = 5": math-verify takes the right side for the answer."""
    parts = found.args if isinstance(found, And) else (found,)
    return any(
        isinstance(part, Eq)
        and part.lhs.is_number
        and part.rhs.is_number
        and not _near(part.lhs, part.rhs)
        for part in parts
    )


def _near(wanted: Basic, found: Basic) -> bool:
    one, other = _numbers(wanted), _numbers(found)
    if one is None or other is None or len(one) != len(other):
        return True  # nothing to compare: math-verify's verdict stands
    pairs = zip(sorted(one), sorted(other), strict=True)
    return all(abs(a - b) <= _RELATIVE * max(abs(a), abs(b)) for a, b in pairs)


def _numbers(value: Basic) -> list[Any] | None:
    """The real numbers that a value is made of; None where it holds anything else."""
    if isinstance(value, (FiniteSet, Tuple)):
        parts = [_numbers(part) for part in value.args]
    elif isinstance(value, Interval):
        parts = [_numbers(value.start), _numbers(value.end)]
    elif isinstance(value, Eq):
        sides = [side for side in value.args if getattr(side, "is_number", False)]
        parts = [_numbers(side) for side in sides[-1:]]
    else:
        number = value.evalf(_DIGITS) if getattr(value, "is_number", False) else None
        real = number is not None and number.is_real and number.is_finite
        return [number] if real else None
    return None if None in parts else [n for part in parts if part is not None for n in part]
