r"""Whether a text is another one less its frame: what a cleaning model may do, and nothing else.

A rewriting is faithful where it is made of the text's own sentences and lines, whole and in their order. Left
out may be what is not of the text's matter: menus, headings, notices. Equations, code, rows of numbers and
sentences are matter. So nothing can be changed, invented, said again, or lost, whatever it is; no list of faults is
needed. Free are blanks and line ends, the delimiters of equations, typographic quotes and dashes, and Markdown's
signs for headings, lists, emphasis and code.

Two holes are known: the indentation of code is not looked at, and a line of a few words without a full stop
(a heading, a label) can be dropped.
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
_TOKEN = re.compile(rf"{_OPEN}\d+{_CLOSE}|[^\W_]+|\S")
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
_CODE = re.compile(r"^\s*(?:>>>|\.\.\. |In \[\d+\]:)", re.MULTILINE)
_FORMULA = re.compile(r"\w\s*[=^<>≤≥±]\s*[\w(-]")
_ENDS = re.compile(r"[.!?:;,。！？][\"')\]]*\s*$")
_FEW_WORDS, _ROW_OF_NUMBERS, _LONGEST_NOTICE = 4, 3, 40
# Sentences of a page's frame, as pages in English have them.
_NOTICE = re.compile(
    r"©|\bcopyright\b|all rights reserved|created using|made with|powered by|last (?:updated|modified|edited)"
    r"|(?:we|site) uses? cookies|accept (?:all )?cookies|privacy policy|terms of (?:use|service)|subscribe to our"
    r"|\bnewsletter\b|sign (?:in|up) (?:to|for)|log ?in to|skip to (?:main )?content|toggle|edit this page|show source"
    r"|share (?:this|on) |click here|report (?:a|an) (?:bug|issue)|javascript",
    re.IGNORECASE,
)
# Signs that may be put into the text: Markdown's. Each group of a pattern is one.
_PUT_IN = (
    re.compile(r"^[ \t]*(#{1,6}|\*)[ \t]", re.MULTILINE),
    # Before a number or a bracket it is a sign of arithmetic.
    re.compile(rf"^[ \t]*([+-])[ \t]+(?=[^\W\d_]{{2}}|{_OPEN}|[\"'`*])", re.MULTILINE),
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
_DROPPED = {"equation": "an equation is missing", "code": "code is missing", "numbers": "numbers are missing", "prose": "sentences are missing"}  # fmt: skip


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens; free: the places of those that may be passed over."""

    said: list[str]
    free: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Segment:
    """A sentence or line. matter: equation, code, numbers or prose; empty: it may be left out."""

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
    said = _tokens(_masked(after, equations), _PUT_IN)
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


def _tokens(text: str, free: tuple[re.Pattern[str], ...]) -> _Tokens:
    spans = [
        match.span(group)
        for pattern in free
        for match in pattern.finditer(text)
        for group in range(1, pattern.groups + 1)
        if match[group]
    ]
    found = list(_TOKEN.finditer(text))
    starts = [match.start() for match in found]
    marked = {
        place
        for start, end in spans
        for place in range(bisect_left(starts, start), bisect_left(starts, end))
    }
    return _Tokens([match[0] for match in found], frozenset(marked))


def _segments(text: str) -> list[_Segment]:
    """The sentences and lines of a masked text."""
    found = list[_Segment]()
    for block in re.split(r"\n[ \t]*\n", text):
        code = bool(_CODE.search(block))
        for line in _lines(block):
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
    tokens = _tokens(text, _LEFT_OUT)
    words = sum(token[0].isalpha() for token in tokens.said)
    return _Segment(tokens, "code" if code else _matter(text, tokens, words), words)


def _matter(text: str, tokens: _Tokens, words: int) -> str:
    if _MASKED.search(text):
        return "equation"
    if _NOTICE.search(text) and words <= _LONGEST_NOTICE:
        return ""
    if words >= _FEW_WORDS and _ENDS.search(text):
        return "prose"
    numbers = sum(token[0].isdigit() for token in tokens.said)
    return "numbers" if _FORMULA.search(text) or numbers >= _ROW_OF_NUMBERS else ""


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
    for number, token in enumerate(part.tokens.said):
        while place < len(said.said) and said.said[place] != token and place in said.free:
            place += 1
        if place < len(said.said) and said.said[place] == token:
            place += 1
        elif number not in part.tokens.free:
            return None
    return place


def _rest_is_free(said: _Tokens, place: int) -> bool:
    return all(n in said.free for n in range(place, len(said.said)))


def _reason(parts: list[_Segment], said: _Tokens, lost: _Segment | None) -> str:
    """What is wrong with a rewriting that cannot be read. lost: the first of the matter that is not in it."""
    there = Counter(token for part in parts for token in part.tokens.said)
    own = Counter(token for n, token in enumerate(said.said) if n not in said.free)
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
