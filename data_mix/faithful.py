r"""Whether a text is another one less its frame: what a cleaning model may do, and nothing else.

A rewriting is faithful where it is made of the text's own sentences and lines, whole and in their order. Left
out may be what is not of the text's matter: menus, headings, notices. Equations, code, rows of numbers and
sentences are matter. So no word or number can be changed, invented or said again, and what is known for matter
cannot be lost; no list of faults is needed. Free are blanks and line ends, the delimiters of equations, typographic quotes and dashes, and Markdown's
signs for headings, lists, emphasis and code.

Holes are known. Can be dropped: a sentence of up to three words, a line of up to nine without a full stop (a
heading, a label; with a number it cannot), a row of capitalised words, a sentence of a script without blanks, a
sentence that reads as a notice, a count of comments or views, a line of code that looks like none. Free are the
indentation of code and a list's or heading's sign before a line that is neither code nor formula.
"""

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

from data_mix.gates import EQUATION

CLEAN = """The text below was taken from a web page. Write it anew without what is not of its matter: menus, notices, links to elsewhere, comments, signs that stand for nothing. Keep every sentence of the matter, its order, and every equation, number, link in it and piece of code as they are. Write the text alone.

{text}"""
_OPEN, _CLOSE = "\ue000", "\ue001"
_MASKED = re.compile(f"{_OPEN}\\d+{_CLOSE}")
# The point of a number is of the number: "1. 5" is not "1.5".
_TOKEN = re.compile(rf"{_OPEN}\d+{_CLOSE}|\d+(?:[.,]\d+)+|(?<!\w)\.\d+(?:[.,]\d+)*|[^\W_]+|\S")
_SAME = str.maketrans(
    {
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("‐‑‒–—−", "-"),
        "\xa0": " ",
    }
)
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
# TeX has no use for blanks, but after a command and before a letter.
_TEX_BLANKS = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")

# lynx breaks lines at 1,024 characters, in the middle of sentences.
_WRAPPED = 900
_SENTENCE = re.compile(rf"(?<=[.!?。！？])\s+(?=[^\W\d_a-z]|[\"'(\[{_OPEN}])")
_PAGE_MARK = re.compile(r"(\[(?:source|edit|edit source|hide|show)\])", re.IGNORECASE)
# A block with one of these is code to its end.
_CODE = re.compile(
    r"^[ \t]*(?:>>>|\.\.\. |In \[\d+\]:|(?:async )?def \w+ ?\(|class \w+ ?[(:{])"
    r"|^([ \t]*)(?![*+•-] )\S.*[:{]\n\1[ \t]+(?![*+•o-] |\d+\.)\S",
    re.MULTILINE,
)
_INDENTED = re.compile(r"\n?(?:(?: {4}|\t)[ \t]*(?![*+•o-] )\S.*(?:\n|$)){2,}")
# So is a line like these alone.
_CODE_LINE = re.compile(
    r"\s*(?:\$ \S|return\b|import [\w.]+(?: as \w+)?\s*$|from [\w.]+ import |#include|raise \w|yield\b"
    r"|[A-Za-z_][\w.]*\(.*\)\s*$|(?![*+•o-] )\S.*[;{}]\s*$)"
)
_FORMULA = re.compile(r"[\w)\]}]\s*(?:[-+*/:!]?=|[\^<>≤≥±])\s*(?:[\w(\[{\"'-]|$)")
# A formula goes on behind its sign.
_HALF = re.compile(r"((?<=[\w)\]}])(?:[ \t]*[=≤≥±]|[ \t]+[-+*/^]))[ \t]*\n\s*")
_ENDS = re.compile(r"[.!?:;,。！？][\"')\]]*\s*$")
_FEW_WORDS, _LONG_LINE, _LONGEST_NOTICE = 4, 10, 40
# Lines of a page's frame that hold numbers.
_COUNT = re.compile(
    r"\W*(?:\d+ (?:comments?|repl(?:y|ies)|views?|votes?|likes?|shares?)|page \d+(?: of \d+)?)\W*|.*[»›]\s*",
    re.IGNORECASE,
)
# Sentences of a page's frame, as pages in English have them.
_NOTICE = re.compile(
    r"^\W*(?:©|\(c\)|copyright\W*(?:by\b|\d{4})|(?:created using|made with|powered by|last (?:updated|modified|edited)"
    r"|sign (?:in|up) (?:to|for)|log ?in to|toggle|share (?:this|on)|click here|report an? (?:bug|issue)"
    r"|accept (?:all )?cookies|privacy policy|terms of (?:use|service))\b)"
    r"|©\W*(?:copyright\W*)?\d{4}|all rights reserved|page was last (?:updated|modified|edited)|(?:we|site) uses? cookies"
    r"|our (?:privacy policy|terms of|newsletter|cookie)|skip to (?:main )?content|edit this page|show source"
    r"|(?:enable|requires?|turn on) javascript|javascript (?:is|must be) (?:disabled|required|enabled|turned)",
    re.IGNORECASE,
)
# Signs that may be put into the text: Markdown's. Each group of a pattern is one. The first are for the start of a
# line, and not of code or a formula: there they comment it out, or change its sign.
_MARKS = (
    re.compile(r"^[ \t]*(#{1,6}|\*)[ \t]", re.MULTILINE),
    # Before a number or a bracket it is a sign of arithmetic.
    re.compile(rf"^[ \t]*([+-])[ \t]+(?=[^\W\d_]{{2}}|{_OPEN}|[\"'`*])", re.MULTILINE),
)
_PUT_IN = (
    re.compile(r"(?<![\w)*])(\*\*|__)(?=\S)[^*\n]+?(?<=\S)(\1)(?![\w*])"),
    re.compile(r"^[ \t]*(```\w*)[ \t]*$", re.MULTILINE),
    re.compile(r"(`+)"),
)
# Signs of lynx and of Sphinx that may be left out of a sentence.
_LEFT_OUT = (
    re.compile(rf"^[ \t]*([*+o])[ \t]+(?=[^\W\d_]{{2}}|{_OPEN}|[(\[])", re.MULTILINE),
    re.compile(r"(¶)|(#)[ \t]*$", re.MULTILINE),
)

CUT, NOTHING, REPEATED = "cut before its end", "nothing is left", "says the same again"
OTHER_EQUATION = "an equation that the text has not"
OTHER_NUMBER, OWN_WORDS = "a number that the text has not", "words of its own"
IN_PART = "a sentence in part, or out of its place"
_DROPPED = {"equation": "an equation is missing", "code": "code is missing", "formula": "a formula is missing", "numbers": "numbers are missing", "prose": "sentences are missing"}  # fmt: skip


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens; free: the places of those that may be passed over; marks: those that may before a line."""

    said: list[str]
    free: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Segment:
    """A sentence or line. matter: equation, code, formula, numbers or prose; empty: it may be left out."""

    tokens: _Tokens
    matter: str = ""
    words: int = 0


def unfaithful(before: str, after: str, *, max_dropped: float = 0.0) -> str:
    """Why a rewriting is not the text less its frame; empty where it is. max_dropped: the share of the words in
    sentences that may go with the frame.

    >>> unfaithful("Menu\\n\\nThe area is \\\\(a^2\\\\).", "The area is $a^2$.")
    ''
    >>> unfaithful("The area is \\\\(a^2\\\\).", "The area is \\\\(a^3\\\\).")
    'an equation that the text has not'
    """
    equations = list[str]()
    parts = _segments(_masked(before, equations))
    said = _tokens(_masked(after, equations), _PUT_IN, _MARKS)
    words = sum(part.words for part in parts if part.matter == "prose")
    return _read(parts, said, most=max_dropped * words)


def _masked(text: str, equations: list[str]) -> str:
    """The text with a token in the place of each equation; the same one for the same equation."""

    def token(match: re.Match[str]) -> str:
        tex = _bare(match[0])
        if tex not in equations:
            equations.append(tex)
        return f" {_OPEN}{equations.index(tex)}{_CLOSE} "

    return EQUATION.sub(token, text.translate(_SAME))


def _bare(span: str) -> str:
    for opens, closes in _DELIMITERS:
        if span.startswith(opens) and span.endswith(closes):
            span = span[len(opens) : -len(closes)]
            break
    return _TEX_BLANKS.sub(lambda m: f"{m[1]} " if m[1] else "", span.strip())


def _tokens(
    text: str, free: tuple[re.Pattern[str], ...], marks: tuple[re.Pattern[str], ...] = ()
) -> _Tokens:
    found = list(_TOKEN.finditer(text))
    starts = [match.start() for match in found]

    def places(patterns: tuple[re.Pattern[str], ...]) -> frozenset[int]:
        return frozenset(
            place
            for pattern in patterns
            for match in pattern.finditer(text)
            for group in range(1, pattern.groups + 1)
            if match[group]
            for place in range(*(bisect_left(starts, edge) for edge in match.span(group)))
        )

    return _Tokens([match[0] for match in found], places(free), places(marks))


def _segments(text: str) -> list[_Segment]:
    """The sentences and lines of a masked text."""
    found = list[_Segment]()
    for block in re.split(r"\n[ \t]*\n", _HALF.sub(r"\1 ", text)):
        whole = bool(_CODE.search(block) or _INDENTED.fullmatch(block))
        for line in _lines(block):
            code = whole or bool(_CODE_LINE.match(line))
            for part in _PAGE_MARK.split(line):
                for sentence in [part] if code else _SENTENCE.split(part):
                    if sentence.strip():
                        found.append(_segment(sentence, code=code))
    return _beside_equations(found)


def _lines(block: str) -> list[str]:
    out = list[str]()
    for line in block.split("\n"):
        if out and len(out[-1]) >= _WRAPPED and not _ENDS.search(out[-1]):
            out[-1] = f"{out[-1]} {line.strip()}"
        else:
            out.append(line)
    return out


def _segment(text: str, *, code: bool) -> _Segment:
    tokens = _tokens(text, () if code else _LEFT_OUT)
    words = sum(token[0].isalpha() for token in tokens.said)
    return _Segment(tokens, "code" if code else _matter(text, tokens, words), words)


def _matter(text: str, tokens: _Tokens, words: int) -> str:
    if _MASKED.search(text):
        return "equation"
    if _NOTICE.search(text) and words <= _LONGEST_NOTICE:
        return ""
    small = sum(token[0].islower() for token in tokens.said)
    if words >= _FEW_WORDS and (_ENDS.search(text) or (words >= _LONG_LINE and 2 * small >= words)):
        return "prose"
    if _FORMULA.search(text):
        return "formula"
    numbers = any(token.lstrip(".")[:1].isdigit() for token in tokens.said)
    return "numbers" if numbers and not _COUNT.fullmatch(text) else ""


def _beside_equations(parts: list[_Segment]) -> list[_Segment]:
    """Words before and after an equation on a line of its own are of its sentence."""
    out = list(parts)
    for n, (one, other) in enumerate(pairwise(parts)):
        for near, place in ((one, n + 1), (other, n)):
            alone = near.matter == "equation" and not near.words
            if alone and not out[place].matter and out[place].words > 1:
                out[place] = replace(out[place], matter="prose")
    return out


def _read(parts: list[_Segment], said: _Tokens, most: float) -> str:
    """Why the rewriting cannot be read as the segments in order, less some that are no matter. most: words of
    sentences that may go, too."""
    # Place in the rewriting -> fewest words of sentences dropped on a way to it.
    ways, furthest = {0: 0}, 0
    for part in parts:
        following = dict[int, int]()
        for place, lost in ways.items():
            dropped = lost + (part.words if part.matter else 0)
            if (part.matter in ("", "prose") and dropped <= most) or not part.matter:
                following[place] = min(dropped, following.get(place, dropped))
            end = _end_of(part, said, place)
            if end is not None:
                furthest = max(furthest, end)
                following[end] = min(lost, following.get(end, lost))
        if not following:
            ended = _rest_is_free(said, furthest)
            return (CUT if furthest else NOTHING) if ended else _reason(parts, said, part)
        ways = following
    if any(_rest_is_free(said, place) for place in ways):
        return ""
    return _reason(parts, said, None)


def _end_of(part: _Segment, said: _Tokens, place: int) -> int | None:
    """The place after the segment, where it stands at this one."""
    begins = part.matter not in ("code", "formula")
    for number, token in enumerate(part.tokens.said):
        marked = begins and not number
        while (
            place < len(said.said)
            and said.said[place] != token
            and (place in said.free or (marked and place in said.marks))
        ):
            place += 1
        if place < len(said.said) and said.said[place] == token:
            place += 1
        elif number not in part.tokens.free:
            return None
    return place


def _rest_is_free(said: _Tokens, place: int) -> bool:
    return all(n in said.free or n in said.marks for n in range(place, len(said.said)))


def _reason(parts: list[_Segment], said: _Tokens, lost: _Segment | None) -> str:
    """What is wrong with a rewriting that cannot be read. lost: the first of the matter that is not in it."""
    there = Counter(token for part in parts for token in part.tokens.said)
    own = Counter(
        token for n, token in enumerate(said.said) if n not in said.free and n not in said.marks
    )
    new = [token for token in own if token not in there]
    if any(map(_MASKED.fullmatch, new)):
        return OTHER_EQUATION
    if any(map(_MASKED.fullmatch, there - own)):
        return _DROPPED["equation"]
    if any(token[0].isdigit() for token in new):
        return OTHER_NUMBER
    if new:
        return OWN_WORDS
    if own - there:
        return REPEATED
    return IN_PART if lost is None else _DROPPED[lost.matter]


def pieces(text: str, tokens: int) -> list[str]:
    """The text in pieces of about `tokens` tokens (four characters each), cut between paragraphs, else between
    lines, else between sentences; never inside an equation. What cannot be cut stands as it is."""
    size = 4 * tokens
    spans = [match.span() for match in EQUATION.finditer(text)]

    def cuts(mark: str, low: int, high: int) -> list[int]:
        ends = (m.end() for m in re.finditer(mark, text[low:high]))
        return [low + e for e in ends if not any(a < low + e < b for a, b in spans)]

    found, start = list[str](), 0
    while len(text) - start > size:
        near = next((c for mark in (r"\n[ \t]*\n", r"\n", r"[.!?]\s") if (c := cuts(mark, start + size // 2, start + size))), None)  # fmt: skip
        cut = (
            near[-1]
            if near
            else next(iter(cuts(r"\n|[.!?]\s", start + size, len(text))), len(text))
        )
        found.append(text[start:cut])
        start = cut
    return [*found, text[start:]] if text[start:].strip() or not found else found
