"""The questions that a text is most like, by the characters that both are made of.

TF-IDF over runs of 3 to 5 characters, hashed into 2^20 columns; cosine. A rephrased question keeps names,
numbers and most words, and so most of its runs; a text in other words altogether is not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_COLUMNS = 1 << 20
_LENGTHS = (3, 4, 5)
# A question stands somewhere in a page: the page is compared in windows of this many characters.
_WINDOW, _STRIDE = 900, 450


@dataclass(frozen=True)
class Near:
    """A question, the window of the text that is like it, and how like (cosine)."""

    question: int
    window: str
    likeness: float


class Nearest:
    """Holds questions; finds those that a text is like."""

    def __init__(self, questions: Sequence[str]) -> None:
        counts = _counts(questions)
        rows_with = np.bincount(counts.indices, minlength=_COLUMNS)
        self._weights = np.log((1 + len(questions)) / (1 + rows_with)) + 1.0
        self._questions = self._weighed(counts).T.tocsc()

    def of(self, text: str, most: int, least: float) -> list[Near]:
        """The `most` likest questions of at least so much likeness, likest first."""
        windows = [text[start : start + _WINDOW] for start in range(0, max(len(text), 1), _STRIDE)]
        likeness = (self._weighed(_counts(windows)) @ self._questions).tocoo()
        chosen = likeness.data >= least
        found: dict[int, Near] = {}
        places = zip(likeness.row[chosen], likeness.col[chosen], likeness.data[chosen], strict=True)
        for window, question, value in places:
            known = found.get(int(question))
            if known is None or value > known.likeness:
                found[int(question)] = Near(int(question), windows[window], float(value))
        return sorted(found.values(), key=lambda near: (-near.likeness, near.question))[:most]

    def _weighed(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        values = (1 + np.log(counts.data)) * self._weights[counts.indices]
        weighed = sparse.csr_matrix((values, counts.indices, counts.indptr), counts.shape)
        norms = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
        return sparse.diags(1 / np.maximum(norms, 1e-12)) @ weighed


def _counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """How often each column's runs occur in each text [texts, columns]."""
    begins, indices, data = [0], list[NDArray[np.int64]](), list[NDArray[np.float64]]()
    for text in texts:
        columns, numbers = np.unique(_runs(text), return_counts=True)
        indices.append(columns)
        data.append(numbers.astype(np.float64))
        begins.append(begins[-1] + len(columns))
    whole = [np.concatenate([np.zeros(0), *parts]) for parts in (data, indices)]
    shape = (len(texts), _COLUMNS)
    return sparse.csr_matrix((whole[0], whole[1].astype(np.int64), np.array(begins)), shape)


def _runs(text: str) -> NDArray[np.int64]:
    letters = np.array([*map(ord, f" {' '.join(text.lower().split())} ")], np.uint64)
    found = []
    for length in _LENGTHS:
        value = np.zeros(max(len(letters) - length + 1, 0), np.uint64)
        for place in range(length):
            value = value * np.uint64(0x100000001B3) + letters[place : place + len(value)]
        value = (value + np.uint64(length)) * np.uint64(0x9E3779B97F4A7C15)
        found.append((value >> np.uint64(44)).astype(np.int64))
    return np.concatenate(found)
