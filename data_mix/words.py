"""Words of a text for n-grams and shingles, in scripts with blanks and without.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no blanks between words. There each character is a
token that weighs part of a word, so that a run of n words is about as long in every script.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

WORD = 20
"""Weight of a word. A run of n words is the shortest run of tokens that weighs n times this."""
_IDEOGRAPH, _LETTER = 12, 5  # a word is about 1.7 characters of Chinese or Japanese, 4 of Thai
_IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTERS = "\u0e00-\u0e3a\u0e40-\u0e4e\u0e80-\u0ece\u0edc-\u0edf\u1000-\u103f\u104c-\u109f\u1780-\u17d3\u17dc"
_UNSPACED = re.compile(f"[{_IDEOGRAPHS}{_LETTERS}]")
_TOKEN = re.compile(f"[{_IDEOGRAPHS}{_LETTERS}]|[^\\W{_IDEOGRAPHS}{_LETTERS}]+")
_IS_LETTER = re.compile(f"[{_LETTERS}]")
_WORD = re.compile(r"\w+")


def words(text: str) -> tuple[list[str], list[int] | None]:
    """(tokens in lower case, their weights); None for weights where every token is a word."""
    if text.isascii() or not _UNSPACED.search(text):
        return _WORD.findall(text.lower()), None
    found = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    return found, [WORD if len(token) > 1 else _weight(token) for token in found]


@cache  # of single characters, so no more than there are
def _weight(token: str) -> int:
    if not _UNSPACED.match(token):
        return WORD
    return _LETTER if _IS_LETTER.match(token) else _IDEOGRAPH


def total(tokens: list[str], weights: list[int] | None) -> int:
    """What the tokens weigh together."""
    return WORD * len(tokens) if weights is None else sum(weights)


def runs(tokens: list[str], weights: list[int] | None, count: int) -> Iterator[tuple[str, ...]]:
    """Every shortest run of tokens that weighs `count` words, by where it begins."""
    if weights is None:  # the common case, and the fastest way
        return zip(*(tokens[start:] for start in range(count)), strict=False)
    return _weighed(tokens, weights, count * WORD)


def _weighed(tokens: list[str], weights: list[int], least: int) -> Iterator[tuple[str, ...]]:
    end, held = 0, 0
    for start, weight in enumerate(weights):
        while held < least and end < len(tokens):
            held += weights[end]
            end += 1
        if held < least:
            return
        yield tuple(tokens[start:end])
        held -= weight
