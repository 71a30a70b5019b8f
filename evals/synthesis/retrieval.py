"""Nearest chunks: by vectors of an /v1/embeddings server, or by TF-IDF of hashed words, here."""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_mix.words import words
from engine.endpoint import ChatClient
from workbench.errors import UserError, one_line

_BUCKETS = 2**18
_BATCH = 64


def nearest(texts: Sequence[str], count: int, *, embeddings: str | None = None) -> list[list[int]]:
    """For each text the places of the `count` most alike others, the nearest first; ties by place.

    Compares each with all: fit for some tens of thousands of chunks.
    """
    if count == 0 or len(texts) < 2:
        return [[] for _ in texts]
    scores = _served(texts, embeddings) if embeddings is not None else _tf_idf(texts)
    found = []
    for place, row in enumerate(scores):
        row[place] = -np.inf
        order = np.argsort(-row, kind="stable")
        found.append([int(n) for n in order[: min(count, len(texts) - 1)]])
    return found


def _tf_idf(texts: Sequence[str]) -> NDArray[np.float64]:
    """Cosine similarity of every pair. Words are hashed into 2^18 buckets, which two rarely share."""
    from scipy import sparse  # noqa: PLC0415 - a quarter of a second, and one task asks

    counts = [Counter(zlib.crc32(w.encode()) % _BUCKETS for w in words(text)[0]) for text in texts]
    seen = Counter(bucket for count in counts for bucket in count)
    rows, columns, values = [], [], []
    for place, count in enumerate(counts):
        weights = {
            b: (1 + np.log(n)) * np.log((1 + len(texts)) / (1 + seen[b])) for b, n in count.items()
        }
        size = float(np.sqrt(sum(w * w for w in weights.values()))) or 1.0
        for bucket, weight in weights.items():
            rows.append(place)
            columns.append(bucket)
            values.append(weight / size)
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), _BUCKETS))
    return np.asarray((matrix @ matrix.T).todense())


def _served(texts: Sequence[str], address: str) -> NDArray[np.float64]:
    client = ChatClient(address)
    rows: list[list[float]] = []
    try:
        for start in range(0, len(texts), _BATCH):
            rows += client.embeddings(list(texts[start : start + _BATCH]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"embeddings server {address!r}: {one_line(error)}") from None
    finally:
        client.close()
    vectors = np.asarray(rows, dtype=np.float64)
    if vectors.shape[:1] != (len(texts),) or vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise UserError(f"embeddings server {address!r} gave no vector of numbers for each text")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors @ vectors.T
