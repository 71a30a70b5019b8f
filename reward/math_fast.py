"""Plain numbers without a computer-algebra system, deciding exactly as math-verify would.

Every rule here declines (None) where math-verify could see something else; the slow path then
decides. tests/unit/reward/test_math.py compares the two on thousands of generated replies.
"""

import re
from fractions import Fraction

# At most 12 digits and 6 decimals: inside math-verify's rounding (6 decimals, 15 digits).
_PLAIN = r"-?(?:0|[1-9]\d{0,11})(?:\.\d{1,6})?"
_THOUSANDS = r"-?[1-9]\d{0,2}(?:,\d{3}){1,3}"
_RATIO = r"-?[1-9]\d{0,8}/[1-9]\d{0,8}"
_LATEX_FRACTION = r"-?\\[dt]?frac\{\d{1,9}\}\{[1-9]\d{0,8}\}"
_BOXED_NUMBER = re.compile(rf"\s*({_PLAIN}|{_THOUSANDS}|{_RATIO}|{_LATEX_FRACTION})\s*\}}")
_NUMBER = re.compile(rf"({_PLAIN}|{_THOUSANDS}|{_RATIO}|{_LATEX_FRACTION})")
_LAST_NUMBER = re.compile(rf"(?:^|[\s=])\s*({_PLAIN}|{_THOUSANDS})\.?\s*$")
_STATED_NUMBER = re.compile(rf"(?i:\banswer(?: is)?):? ({_PLAIN}|{_THOUSANDS})\.?\s*$")
_BOX = "\\boxed{"
# Characters with which math-verify could read more than one number ("12 + 30", "1 234").
_JOINING = frozenset("0123456789+-*/^().×÷,")
# Two values nearer than this are left to math-verify's own rounding (6 decimals).
_NEAR = Fraction(11, 10**7)


def read_gold(gold: str) -> Fraction | None:
    """The value of a reference that is one plain number, boxed or not; else None."""
    gold = gold.strip()
    if gold.startswith(_BOX) and gold.endswith("}"):
        gold = gold[len(_BOX) : -1].strip()
    found = _NUMBER.fullmatch(gold)
    return _value(found[1]) if found else None


def read_answer(answer: str) -> tuple[Fraction, str] | None:
    """(value, its text) where the reply's answer is certainly one plain number; else None."""
    if "\\boxed" in answer:
        return _read_boxed(answer)
    tail = answer[-400:]
    if "\\" in answer or "$" in answer or "%" in answer:
        return None
    lowered = answer.lower()
    mentions = lowered.count("answer")
    if mentions:
        found = _STATED_NUMBER.search(tail) if mentions == 1 and "final" not in lowered else None
        return (_value(found[1]), found[1]) if found else None
    found = _LAST_NUMBER.search(tail)
    if not found:
        return None
    before = tail[: found.start(1)].rstrip()
    if before and before[-1] in _JOINING:
        return None
    return _value(found[1]), found[1]


def _read_boxed(answer: str) -> tuple[Fraction, str] | None:
    lowered = answer.lower()
    if answer.count("\\boxed") != 1 or "final answer" in lowered:
        return None
    start = answer.find(_BOX)
    if start < 0:
        return None
    found = _BOXED_NUMBER.match(answer, start + len(_BOX))
    if not found:
        return None
    after = lowered[found.end() : found.end() + 40]
    if "%" in after or "pct" in after or "percent" in after:
        return None
    return _value(found[1]), found[1]


def same(gold: Fraction, value: Fraction) -> bool | None:
    """Equality, or None where it depends on math-verify's rounding."""
    if gold == value:
        return True
    return None if abs(gold - value) <= _NEAR else False


def _value(text: str) -> Fraction:
    text = text.replace(",", "")
    if "frac" in text:
        sign = -1 if text.startswith("-") else 1
        top, bottom = re.findall(r"\{(\d+)\}", text)
        return Fraction(sign * int(top), int(bottom))
    return Fraction(text)
