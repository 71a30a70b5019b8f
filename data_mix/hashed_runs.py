"""Runs of words as 64-bit numbers, in numpy: what duplicates and contamination are looked for by.

A word is hashed once (xxh3). A run's number is a polynomial of its words' hashes modulo 2^64, so that all
runs of a text come from one sum. Scripts without blanks go by characters of the same length
(data_mix.words). Two different runs have the same number with probability about 2^-64.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_mix.words import WORD, words

_MOST_WORDS = 1 << 20
_U64 = np.uint64
_known: dict[str, int] = {}


@dataclass(frozen=True)
class Hashed:
    """A text as hashes of its tokens [tokens], and what the tokens before each weigh [tokens + 1].

    weights: None where every token is a word.
    """

    tokens: NDArray[np.uint64]
    weights: NDArray[np.int64] | None

    def runs(self, count: int) -> NDArray[np.uint64]:
        """The number of the shortest run that weighs `count` words, from each token on that has one."""
        if self.weights is None:
            starts = max(len(self.tokens) - count + 1, 0)
            return self._numbers(slice(0, starts), slice(count, count + starts))
        ends = np.searchsorted(self.weights, self.weights[:-1] + count * WORD)
        ends = ends[ends <= len(self.tokens)]
        return self._numbers(slice(0, len(ends)), ends)

    def runs_at(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
        """The numbers of the runs of `length` tokens from these places, where the text has so many."""
        starts = starts[starts + length <= len(self.tokens)]
        return self._numbers(starts, starts + length)

    def whole(self) -> NDArray[np.uint64]:
        """The number of the whole text as one run [1]."""
        return self._numbers(slice(0, 1), slice(len(self.tokens), None))

    @property
    def num_words(self) -> float:
        """How many words it weighs."""
        return float(len(self.tokens) if self.weights is None else self.weights[-1] / WORD)

    @cached_property
    def _sums(self) -> NDArray[np.uint64]:
        """What runs are differences of [tokens + 1]."""
        power, _ = powers(len(self.tokens) + 1)
        sums = np.zeros(len(self.tokens) + 1, _U64)
        np.cumsum(self.tokens * power[: len(self.tokens)], out=sums[1:])
        return sums

    def _numbers(
        self, starts: slice | NDArray[np.int64], ends: slice | NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        _, inverse = powers(len(self.tokens) + 1)
        return mixed((self._sums[ends] - self._sums[starts]) * inverse[starts])


def hashed(text: str) -> Hashed:
    """The hashes of a text's words."""
    tokens, weights = words(text)
    if len(_known) > _MOST_WORDS:
        _known.clear()
    try:
        numbers = np.fromiter(map(_known.__getitem__, tokens), dtype=_U64, count=len(tokens))
    except KeyError:
        for token in set(tokens).difference(_known):
            _known[token] = xxhash.xxh3_64_intdigest(token.encode("utf-8", "surrogatepass"))
        numbers = np.fromiter(map(_known.__getitem__, tokens), dtype=_U64, count=len(tokens))
    if weights is None:
        return Hashed(numbers, None)
    return Hashed(numbers, np.concatenate([np.zeros(1, np.int64), np.cumsum(weights)]))


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits after which every bit depends on all (the finaliser of SplitMix64)."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """At least `size` powers of an odd number, and of its inverse modulo 2^64."""
    return _powers(1 << max(size - 1, 1023).bit_length())


@cache
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    base = 0x9E3779B97F4A7C15
    made = []
    for factor in (base, pow(base, -1, 2**64)):
        factors = np.full(size, factor, _U64)
        factors[0] = 1
        made.append(np.cumprod(factors, dtype=_U64))
    return made[0], made[1]
