"""Exact and near-duplicate removal: normalised hashes, and MinHash with locality-sensitive bands.

MinHash: Broder 1997. Two documents are candidates when one band of their signatures agrees; a
candidate pair is then confirmed by its estimated Jaccard similarity over all permutations.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from data_mix.words import runs, words

NUM_PERMUTATIONS = 128
# A Mersenne prime whose square fits 64 bits: x -> (a x + b) mod p permutes the hashes without overflow.
_PRIME = (1 << 31) - 1
_SHINGLE_WORDS = 5
_BAND_COUNTS = (1, 2, 4, 8, 16, 32, 64)


def normalised(text: str) -> str:
    """Lower case, every run of blanks one blank."""
    return " ".join(text.lower().split())


def exact_key(text: str) -> bytes:
    """16 bytes that two texts share when they differ in case and blanks at most."""
    return blake2b(_bytes(normalised(text)), digest_size=16).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def shingles(text: str) -> set[str]:
    """Runs of 5 words (in scripts without blanks, of as much text); a shorter text is one shingle."""
    tokens, weights = words(text)
    found = set(map(" ".join, runs(tokens, weights, _SHINGLE_WORDS)))
    return found or {" ".join(tokens)}


class MinHash:
    """Signatures [NUM_PERMUTATIONS] whose share of equal entries estimates Jaccard similarity.

    Standard error sqrt(J(1-J)/128): 0.035 at J = 0.8.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._a = rng.integers(1, _PRIME, NUM_PERMUTATIONS, dtype=np.uint64)
        self._b = rng.integers(0, _PRIME, NUM_PERMUTATIONS, dtype=np.uint64)

    def signature(self, text: str) -> NDArray[np.uint64]:
        """The minimum of each permuted hash over the text's shingles."""
        hashes = np.array(
            [
                int.from_bytes(blake2b(_bytes(s), digest_size=8).digest(), "big") % _PRIME
                for s in shingles(text)
            ],
            dtype=np.uint64,
        )
        permuted = (hashes[:, None] * self._a + self._b) % np.uint64(_PRIME)
        minimum: NDArray[np.uint64] = permuted.min(axis=0)
        return minimum


def band_count(similarity: float) -> int:
    """The fewest bands whose 50% point (1/bands)^(1/rows) lies at or below 0.8 x `similarity`.

    Lower than the threshold on purpose: candidates are confirmed afterwards, misses are not.
    """
    for bands in _BAND_COUNTS:
        if (1 / bands) ** (bands / NUM_PERMUTATIONS) <= 0.8 * similarity:
            return bands
    return _BAND_COUNTS[-1]


class NearDuplicates:
    """Remembers what it kept: `is_new(text)` is False for a near duplicate of that."""

    def __init__(self, similarity: float, seed: int = 0) -> None:
        self._similarity = similarity
        self._minhash = MinHash(seed)
        self._bands = band_count(similarity)
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._signatures: list[NDArray[np.uint64]] = []

    def is_new(self, text: str) -> bool:
        """True where nothing kept so far is similar; the text is then kept."""
        signature = self._minhash.signature(text)
        keys = [(i, part.tobytes()) for i, part in enumerate(np.split(signature, self._bands))]
        candidates = {n for key in keys for n in self._buckets.get(key, ())}
        for n in candidates:
            if float(np.mean(self._signatures[n] == signature)) >= self._similarity:
                return False
        for key in keys:
            self._buckets.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return True


def unique(texts: Iterable[str], *, near: float | None = None) -> Iterator[int]:
    """The positions of the texts to keep, in order; the first of equals is the one kept."""
    seen: set[bytes] = set()
    similar = NearDuplicates(near) if near is not None else None
    for position, text in enumerate(texts):
        key = exact_key(text)
        if key in seen:
            continue
        seen.add(key)
        if similar is None or similar.is_new(text):
            yield position
