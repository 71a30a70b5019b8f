"""Numbers as people and models write them, put as math-verify reads them.

It reads ASCII and LaTeX: `−7`, `½`, `1 200` with a thin space, `1.6e-19` and `２` are not numbers to it,
or other ones. Nothing here changes what a text says.
"""

import re
import unicodedata
from fractions import Fraction

_MINUS = "\u2212\ufe63\uff0d\u2010\u2011\u2012"
_BLANKS = "\u00a0\u2000-\u200a\u202f\u205f\u3000"
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_CURRENCY = "€£¥₹₽₩₺₫₪฿₴₦¢"
_SYMBOLS = {
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∞": r"\infty ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
}  # fmt: skip
_PLAIN_SYMBOLS = {"·": "*", "⋅": "*", "∙": "*"}
# An exponent further out than this is left as it is written: its decimals would be a page.
_FURTHEST = 300
_MANTISSA = r"(?<![\w.^])(?P<sign>-?)(?P<whole>\d{1,30})(?:\.(?P<part>\d{1,30}))?"
_SCIENTIFIC = re.compile(
    _MANTISSA + r"(?:[eE](?P<e>[+-]?\d{1,3})(?![\w.]*\w)|"
    r"\s{0,3}(?:×|x|\*|\\times|\\cdot)\s{0,3}10\s?(?:\^|\*\*)\s?"
    r"(?:\{\s?(?P<braced>[+-]?\d{1,3})\s?\}|\((?P<round>[+-]?\d{1,3})\)|(?P<bare>-?\d{1,3}))(?!\d))"
)
# One separator between groups of three; a comma is left to math-verify, which reads it.
_SEPARATOR = r"(?:\\[,;:! ]|\\thinspace\s?|\{,\}|['’]|~)"
_GROUPED = re.compile(
    rf"(?<![\d.,'’])(\d{{1,3}})((?:(?:{_SEPARATOR}|[{_BLANKS}])\d{{3}})+)(?![\d'’])"
)
_BOXED_GROUPS = re.compile(r"(?<=\\boxed\{)(\s*-?\d{1,3}(?: \d{3})+(?:\.\d+)?\s*)(?=\})")
_INDIAN = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])")
_POINTS = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d+)(?![\d,.]\d)")
_POINTS_ONLY = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d,]|\.\d)")
_MIXED = re.compile(r"(?<![\d.,/^])(-?)(\d{1,4}) (\d{1,3})/(\d{1,3})(?![\d/.])")
_VULGAR = re.compile(r"(-?)(\d{0,9})\s?([¼½¾⅐-⅞↉])")
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_ROOT = re.compile(r"√\s?(\d+(?:\.\d+)?|[A-Za-z]|\([^()]{1,60}\)|\{[^{}]{1,60}\})")
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\s?\{(\d{1,9})\}")
_SIGNED = re.compile(
    r"(\b(?:is|equals|be|to)\s|[:=]\s{0,2})(?:-\s|(?:minus|negative)\s)(?=\d)", re.IGNORECASE
)
_IN_MATH = re.compile(r"\\boxed|\\\(|\\\[|\$[^$]*\$")
# In plain text math-verify would read the number alone: "2√3", "3π", and "2x" where it ends the text.
_FACTOR = r"-?(?:\d+(?:\.\d+)?)?"
_TERMS = re.compile(
    rf"(?<![\w.\\$]){_FACTOR}(?:√\s?(?:\d+|[A-Za-z]|\([^()]{{1,60}}\))|π)(?:/\d+)?|"
    r"(?<![\w.\\$])-?\d+(?:\.\d+)?[xyz](?:\^\d+|[²³])?(?=[.!]?\s*$)"
)


# In scripts without blanks a number follows its sentence at once; math-verify wants a blank before it.
_ATTACHED = re.compile(
    r"(?<=[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])(?=-?\d)|(?<=[^\d:]:)(?=-?\d)"
)


def plain_math(text: str, *, formula: bool = False) -> str:
    """The text with other minus signs, digits, separators, fractions, powers and notations rewritten.

    formula: the text is one, with or without dollars around it.

    >>> plain_math("The answer is \u22121\u202f200."), plain_math("1.6e-3")
    ('The answer is -1200.', '0.0016')
    """
    text = _ascii(text)
    in_math = formula or _IN_MATH.search(text) is not None
    text = text if in_math else _TERMS.sub(r"$\g<0>$", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _RAISED.sub(lambda m: _raised(m[0], in_math), text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1].strip('(){}')}}}", text)
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"(?<=\d)\s?°", r"^\\circ " if in_math else "", text)
    text = re.sub(rf"[{_CURRENCY}]\s?(?=-?\d)|(?<=\d)\s?[{_CURRENCY}]", "", text)
    text = _separated(text)
    text = _MIXED.sub(_mixed, text)
    text = _SCIENTIFIC.sub(_decimals, text)
    text = _SIGNED.sub(r"\1-", text)
    for symbol, written in (_SYMBOLS if in_math else _PLAIN_SYMBOLS).items():
        text = text.replace(symbol, written)
    return text


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(rf"[{_MINUS}]", "-", text)
    text = re.sub(r"(?<!\S)[–—](?=\d)", "-", text)
    text = text.replace("⁄", "/").replace("٫", ".").replace("٬", ",").replace("。", ". ")
    text = text.replace("、", ", ")
    return _ATTACHED.sub(" ", "".join(map(_character, text)))


def _character(char: str) -> str:
    if "\uff01" <= char <= "\uff5e":  # full-width forms
        return chr(ord(char) - 0xFEE0)
    if not char.isascii() and char.isdecimal():
        return str(unicodedata.decimal(char))
    return char


def _separated(text: str) -> str:
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = re.sub(f"[{_BLANKS}]", " ", text)
    text = _BOXED_GROUPS.sub(lambda m: m[1].replace(" ", ""), text)
    text = _INDIAN.sub(lambda m: m[0].replace(",", ""), text)
    text = _POINTS.sub(lambda m: m[1].replace(".", "") + "." + m[2], text)
    return _POINTS_ONLY.sub(lambda m: m[0].replace(".", ""), text)


def _fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _vulgar(match: re.Match[str]) -> str:
    part = Fraction(unicodedata.normalize("NFKC", match[3]).replace("⁄", "/"))
    value = Fraction(int(match[2] or 0)) + part
    return _fraction(-value if match[1] else value)


def _mixed(match: re.Match[str]) -> str:
    top, bottom = int(match[3]), int(match[4])
    if not top < bottom:
        return match[0]
    value = int(match[2]) + Fraction(top, bottom)
    return _fraction(-value if match[1] else value)


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    nines = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    start = Fraction(int(whole + fixed), 10 ** len(fixed))
    return _fraction(start + Fraction(int(repeated), nines))


def _raised(run: str, in_math: bool) -> str:
    power = "".join(_SUPERSCRIPTS[char] for char in run)
    return f"^{{{power}}}" if in_math else f"^{power}"


def _decimals(match: re.Match[str]) -> str:
    exponent = int(match["e"] or match["braced"] or match["round"] or match["bare"])
    if abs(exponent) > _FURTHEST:
        return match[0]
    part = match["part"] or ""
    digits, point = match["whole"] + part, len(match["whole"]) + exponent
    if point <= 0:
        digits, point = "0" * (1 - point) + digits, 1
    digits = digits.ljust(point, "0")
    whole, rest = digits[:point].lstrip("0") or "0", digits[point:]
    return match["sign"] + whole + (f".{rest}" if rest else "")
