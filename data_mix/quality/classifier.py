"""Hashed word n-grams and ridge regression, in numpy: seconds to train, a millisecond a page to use.

A rating by a large model is worth having for every page and too dear for it. So a sample is rated, and this
learns the ratings (as FineWeb-Edu and FineMath do with an encoder; theirs can be used in its place).
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_mix.words import words
from workbench.errors import UserError

FILE = "classifier.npz"
_LONGEST_WORDS = 4000
_STEPS, _CLOSE = 200, 1e-8
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Sparse rows. indices, values: of all rows one after another; starts [rows + 1]: where each begins."""

    indices: NDArray[np.int64]
    values: Vector
    starts: NDArray[np.int64]
    size: int

    def times(self, weights: Vector) -> Vector:
        """X w, a number for each row."""
        products = np.concatenate([[0.0], np.cumsum(self.values * weights[self.indices])])
        return np.asarray(products[self.starts[1:]] - products[self.starts[:-1]])

    def transposed_times(self, rows: Vector) -> Vector:
        """X' r, a number for each feature."""
        spread = np.repeat(rows, np.diff(self.starts))
        found = np.bincount(self.indices, weights=self.values * spread, minlength=self.size)
        return found.astype(np.float64)


def features_of(texts: Iterable[str], buckets: int) -> Features:
    """Words and pairs of words by hash, log(1 + count), each text of length 1; the last feature is 1.

    Only the first 4,000 words of a text are read.
    """
    indices: list[int] = []
    values: list[float] = []
    starts = [0]
    for text in texts:
        said = words(text)[0][:_LONGEST_WORDS]
        grams = [*said, *(f"{a} {b}" for a, b in pairwise(said))]
        counts = Counter(zlib.crc32(gram.encode("utf-8", "replace")) % buckets for gram in grams)
        weights = {bucket: math.log1p(count) for bucket, count in sorted(counts.items())}
        length = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        indices += [*weights, buckets]
        values += [*(w / length for w in weights.values()), 1.0]
        starts.append(len(indices))
    return Features(
        np.array(indices, dtype=np.int64),
        np.array(values),
        np.array(starts, dtype=np.int64),
        buckets + 1,
    )


def ridge(features: Features, labels: Vector, penalty: float) -> Vector:
    """w that minimises |X w - y|^2 + penalty |w|^2, by conjugate gradients; the constant is not penalised."""
    weigh = np.full(features.size, penalty)
    weigh[-1] = 1e-9
    weights = np.zeros(features.size)
    residual = features.transposed_times(labels)
    direction, size = residual.copy(), float(residual @ residual)
    least = _CLOSE**2 * max(size, 1e-300)
    for _ in range(_STEPS):
        if size <= least:
            break
        image = features.transposed_times(features.times(direction)) + weigh * direction
        step = size / float(direction @ image)
        weights += step * direction
        residual -= step * image
        new = float(residual @ residual)
        direction = residual + new / size * direction
        size = new
    return weights


@dataclass(frozen=True)
class Classifier:
    """Scores texts on the scale of its ratings, low to high."""

    weights: Vector
    buckets: int
    low: float
    high: float

    def score(self, texts: Sequence[str]) -> Vector:
        """A number for each text, inside the scale."""
        found = features_of(texts, self.buckets).times(self.weights)
        return np.clip(found, self.low, self.high)

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write it with what is known of it."""
        folder.mkdir(parents=True, exist_ok=True)
        scale = json.dumps({"buckets": self.buckets, "low": self.low, "high": self.high, **about})
        half = folder / f".half-{FILE}"
        np.savez_compressed(half, weights=self.weights.astype(np.float32), about=np.array(scale))
        half.rename(folder / FILE)


def train(
    texts: Sequence[str], labels: Sequence[float], *, buckets: int, penalty: float
) -> Classifier:
    """Raises: UserError where all ratings are equal: then there is nothing to learn."""
    if len(set(labels)) < 2:
        shown = f"all {len(labels)} are {labels[0]:g}" if labels else "there are none"
        raise UserError(f"the ratings have one class ({shown}); rate more texts, or others")
    weights = ridge(features_of(texts, buckets), np.asarray(labels, dtype=np.float64), penalty)
    return Classifier(weights, buckets, float(min(labels)), float(max(labels)))


def load(folder: Path) -> Classifier:
    """Raises: UserError where there is none, or half of one."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no {FILE}; name a stage of kind quality")
    try:
        with np.load(path) as data:
            about = json.loads(str(data["about"]))
            weights = data["weights"].astype(np.float64)
        return Classifier(weights, int(about["buckets"]), float(about["low"]), float(about["high"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a classifier ({error}); run its stage again") from None
