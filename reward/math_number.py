"""The number that a reply states, as it is written: no expression is worked out for the reply.

math-verify works expressions out, so "1 + 8" is right where 9 is asked. A policy finds that: it learns
to repeat the question.
"""

import re
from fractions import Fraction

_MINUS = "-\u2212"  # the sign proper, too
_NUMBER = re.compile(rf"[{_MINUS}]?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?")
# Python reads no integer of over 4,300 digits: a reply that runs on would be a broken check.
_LONGEST = 1000
# Next to one of these a number is a part of an expression, or of a condition on it.
_OPERATORS = frozenset(f"+*/×÷·^%<>{_MINUS}")


def stated_number(answer: str) -> Fraction | None:
    """The last number of the answer; None where there is none, or it is part of an expression.

    >>> stated_number("1 + 8 = 9."), stated_number("1 + 8"), stated_number("1 + 8 =")
    (Fraction(9, 1), None, None)
    """
    numbers = list(_NUMBER.finditer(answer))
    if not numbers:
        return None
    found = numbers[-1]
    text, before = found[0], answer[: found.start()]
    if len(text) > _LONGEST:
        return None
    attached = before[-1:]
    if text[0] in _MINUS and (attached.isalnum() or attached in tuple(")]}")):
        return None  # "5-9": a difference, not a negative number
    after = answer[found.end() :].lstrip(" \t\n)}]*_$\\")
    before = before.rstrip(" \t\n([{_$\\")
    if before.endswith("**"):  # bold
        before = before.rstrip("*").rstrip()
    if (before and before[-1] in _OPERATORS) or (after and after[0] in _OPERATORS | {"="}):
        return None
    return Fraction(text.replace(",", "").translate({ord(sign): "-" for sign in _MINUS}))
