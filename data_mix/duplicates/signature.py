"""Signatures of texts: MinHash (Broder 1997) over runs of five words, in numpy.

Runs are numbers (data_mix.hashed_runs), and permutations are affine maps of 64-bit integers whose upper half
counts. Two signatures agree in a share of places that estimates the Jaccard similarity of
the sets of runs, with standard error sqrt(J (1 - J) / places).
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_mix.hashed_runs import hashed, mixed, powers

SHINGLE_WORDS = 5
# Runs that are permuted at once: a block of 8 MB.
_BLOCK = 1 << 20
_U64 = np.uint64


class Signer:
    """Makes signatures of `places` 32-bit numbers. The same in every process and on every machine."""

    def __init__(self, places: int) -> None:
        rng = np.random.default_rng(2508)
        self._scale = rng.integers(0, 2**63, places, dtype=_U64) * _U64(2) + _U64(1)
        self._shift = rng.integers(0, 2**63, places, dtype=_U64) * _U64(2)

    def signature(self, text: str) -> NDArray[np.uint32]:
        """The signature of a text [places]."""
        runs = shingles_of(text)
        out = np.full(len(self._scale), 2**32 - 1, np.uint32)
        step = max(_BLOCK // len(self._scale), 1)
        for start in range(0, len(runs), step):
            block = runs[start : start + step, None] * self._scale + self._shift
            np.minimum(out, (block >> _U64(32)).min(axis=0).astype(np.uint32), out=out)
        return out


def shingles_of(text: str) -> NDArray[np.uint64]:
    """Numbers of the text's runs of five words; a shorter text is one run."""
    found = hashed(text)
    runs = found.runs(SHINGLE_WORDS)
    return runs if len(runs) else found.whole()


def exact_key(text: str) -> int:
    """64 bits that two texts share when they differ in case and blanks at most."""
    same = " ".join(text.lower().split())
    return xxhash.xxh3_64_intdigest(same.encode("utf-8", "surrogatepass"))


def band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """64 bits for each band of each signature [bands, documents]."""
    out = np.empty((bands, len(signatures)), _U64)
    step = max(_BLOCK // max(signatures.shape[1], 1), 1)
    for start in range(0, len(signatures), step):
        block = signatures[start : start + step]
        out[:, start : start + step] = _band_keys(block, bands)
    return out


def _band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    split = signatures.reshape(len(signatures), bands, -1).astype(_U64)
    power, _ = powers(split.shape[2])
    spread = mixed(split + _U64(1))
    salt = mixed(np.arange(bands, dtype=_U64) + _U64(1))
    return mixed((spread * power[: split.shape[2]]).sum(axis=2, dtype=_U64) + salt).T
