"""What a written text must keep, and must not: numbers, equations, its own words. No model is asked."""

import re
from collections import Counter
from itertools import pairwise

from data_mix.words import runs, words

EQUATION = re.compile(
    r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|(?<![\w$])\$(?!\s)[^$\n]{1,200}?(?<!\s)\$(?![\w$])",
    re.DOTALL,
)
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>)\]]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_EVERYWHERE = frozenset(("yes", "no", "true", "false"))
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")


def kept_spans(text: str) -> list[str]:
    """Code, links and equations: what no rewriting may change, blanks left out."""
    spans: list[str] = []
    rest = text
    for pattern in (_CODE, EQUATION, _LINK):
        spans += pattern.findall(rest)
        rest = pattern.sub(" ", rest)
    return ["".join(span.split()) for span in spans]


def without_spans(text: str) -> str:
    """The text without its code, links and equations."""
    for pattern in (_CODE, EQUATION, _LINK):
        text = pattern.sub(" ", text)
    return text


def numbers(text: str) -> Counter[str]:
    """The numbers of a text by their digits: 1,000 and 1.000 and 1000 are one, as languages write it."""
    return Counter(re.sub(r"[.,]", "", found) for found in _NUMBER.findall(without_spans(text)))


def same_spans(before: str, after: str) -> bool:
    """Whether code, links and equations are the same ones, each as often."""
    return Counter(kept_spans(before)) == Counter(kept_spans(after))


def copied(text: str, origin: str, *, run: int = 8) -> float:
    """Share of the text's runs of `run` words that stand in the origin; 0 where it has none."""
    own = list(runs(*words(text), run))
    if not own:
        return 0.0
    there = set(runs(*words(origin), run))
    return sum(one in there for one in own) / len(own)


def alike(one: str, other: str, *, run: int = 5) -> float:
    """Jaccard similarity of the runs of `run` words; of single words where a text has none."""
    for size in (run, 1):
        a, b = (set(runs(*words(text), size)) for text in (one, other))
        if a and b:
            return len(a & b) / len(a | b)
    return 0.0


def grounded(answer: str, *texts: str) -> float:
    """Share of the answer's numbers and longer words that stand in one of the texts; 1 for a bare yes or
    no, and where there is nothing to look for."""
    said, _ = words(answer)
    if said and said[0] in _EVERYWHERE:
        said = said[1:]
    said = [w for w in said if len(w) >= 4 or w.isdigit()]
    if not said:
        return 1.0
    there = {word for text in texts for word in words(text)[0]}
    return sum(word in there for word in said) / len(said)


def repeats(text: str, *, least: int = 12) -> bool:
    """Whether a text runs in a circle: one of its sentences or lines stands three times in a row."""
    for parts in (
        _SENTENCE.split(text),
        [line.strip() for line in text.splitlines() if line.strip()],
    ):
        long_ones = [part for part in parts if len(part) >= least]
        again = [a == b for a, b in pairwise(long_ones)]
        if any(a and b for a, b in pairwise(again)):
            return True
    return False


def chunks(text: str, tokens: int) -> list[str]:
    """The text in pieces of about `tokens` tokens (four characters each), cut at paragraphs, else at
    blanks; together they are the text but for blanks at the cuts."""
    size, found, rest = 4 * tokens, list[str](), text.strip()
    while len(rest) > size:
        cut = next(
            (
                c
                for mark in ("\n\n", "\n", ". ", " ")
                if (c := rest.rfind(mark, size // 2, size)) > 0
            ),
            size,
        )
        cut += 1 if rest[cut : cut + 2] == ". " else 0
        found.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [*found, rest] if rest else found
