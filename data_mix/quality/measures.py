"""How well scores agree with ratings on texts of hosts that were not trained on."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from workbench.records import Estimate, to_json
from workbench.statistics import mean_interval

_DRAWS = 400


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Probability that a text above the threshold scores higher than one below it; ties count half. NaN
    where one of the two is missing."""
    ups = sum(positive)
    downs = len(positive) - ups
    if not ups or not downs:
        return float("nan")
    values, inverse, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    del values
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = float(ranks[inverse][np.asarray(positive, dtype=bool)].sum())
    return (total - ups * (ups + 1) / 2) / (ups * downs)


def auc_interval(
    scores: Sequence[float], positive: Sequence[bool], hosts: Sequence[str], *, seed: int
) -> Estimate:
    """AUC with a 95% interval of 400 bootstrap draws of whole hosts."""
    own: dict[str, list[int]] = {}
    for place, host in enumerate(hosts):
        own.setdefault(host, []).append(place)
    rng, names, draws = Random(seed), sorted(own), list[float]()
    for _ in range(_DRAWS):
        places = [p for name in rng.choices(names, k=len(names)) for p in own[name]]
        found = auc([scores[p] for p in places], [positive[p] for p in places])
        if found == found:
            draws.append(found)
    if len(draws) < _DRAWS // 2:
        return Estimate(
            auc(scores, positive), float("nan"), (float("nan"), float("nan")), len(scores)
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(
        auc(scores, positive), float(np.std(draws)), (float(low), float(high)), len(scores)
    )


def measures(
    scores: Sequence[float],
    ratings: Sequence[float],
    hosts: Sequence[str],
    threshold: float,
    *,
    seed: int,
) -> dict[str, Any]:
    """Agreement, AUC at the threshold, and calibration by bin of the rounded score. JSON-able."""
    positive = [rating >= threshold for rating in ratings]
    rounded = [round(score) for score in scores]
    same = [float(a == round(b)) for a, b in zip(rounded, ratings, strict=True)]
    near = [float(abs(a - b) <= 1) for a, b in zip(rounded, ratings, strict=True)]
    kept = [float((s >= threshold) == p) for s, p in zip(scores, positive, strict=True)]
    bins = {}
    for value in sorted(set(rounded)):
        places = [n for n, found in enumerate(rounded) if found == value]
        mean = mean_interval([ratings[n] for n in places], [hosts[n] for n in places])
        bins[str(value)] = {
            "score": float(np.mean([scores[n] for n in places])),
            "rating": to_json(mean),
        }
    return {
        "texts": len(scores), "hosts": len(set(hosts)), "threshold": threshold,
        "same_rating": to_json(mean_interval(same, hosts)),
        "within_one": to_json(mean_interval(near, hosts)),
        "same_side_of_threshold": to_json(mean_interval(kept, hosts)),
        "auc": to_json(auc_interval(scores, positive, hosts, seed=seed)),
        "calibration": bins,
    }  # fmt: skip
