"""Means with honest intervals. Every number that is shown carries its n and one of these."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_Z = 1.959963984540054  # normal quantile of 97.5%
_NO_SPREAD = 1e-12  # what rounding leaves of a standard error that is 0


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95% interval."""

    value: float
    stderr: float
    low: float
    high: float
    n: int

    @property
    def clear_of_zero(self) -> bool:
        """The 95% interval excludes 0."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | list[float]]:
        """The form of results.json."""
        return {"value": self.value, "stderr": self.stderr, "ci95": [self.low, self.high]}


def problem_of(row: Mapping[str, Any]) -> str:
    """What a sample's row asks, the same for its wordings: those are no independent evidence.

    >>> problem_of({"id": "q7", "problem": "1,2"}), problem_of({"id": "q8", "problem": None})
    ('1,2', 'q8')
    """
    return str(row["id"] if row.get("problem") is None else row["problem"])


def problems_of(
    questions: Iterable[str], before: Mapping[str, str], after: Mapping[str, str]
) -> list[str]:
    """The problem of each question that two models answered, by either's samples: those of an earlier
    version name none, and the question's own id stands for it.

    >>> problems_of(["q1", "q2"], {"q1": "q1"}, {"q1": "1,2", "q2": "q2"})
    ['1,2', 'q2']
    """
    return [p if (p := before.get(q, q)) != q else after.get(q, q) for q in questions]


def mean_interval(values: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """Mean of per-sample values; `groups` (the question of each sample) clusters the error.

    0/1 values use Wilson's interval, which stays inside [0, 1] and is honest at 0 and 1 (Wilson 1927):
    by the number of values; where they repeat, by the number of independent ones that would have the
    clustered standard error, or, where no question differs from another, the number of questions.
    Others use the normal interval on the (clustered) standard error, with the small-sample factor
    G / (G - 1). Empty input gives NaN.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    mean, stderr, count = _clustered(values, groups)
    binary = {float(value) for value in values} <= {0.0, 1.0}
    if binary and (count == n or stderr < _NO_SPREAD):
        low, high = _wilson(mean, count)
    elif binary and stderr > 0:
        # As many independent values would have this error: one repeat must not end Wilson's interval.
        low, high = _wilson(mean, min(mean * (1 - mean) / stderr**2, n))
    else:
        low, high = mean - _Z * stderr, mean + _Z * stderr
    return Estimate(mean, stderr, low, high, n)


def paired_interval(
    before: Sequence[float], after: Sequence[float], groups: Sequence[str] | None = None
) -> Estimate:
    """Mean of after - before over the same questions, with a 95% interval.

    0/1 values use the interval of Agresti and Min (2005), which adds half a question to each of the
    four outcomes: no change in 100 questions is not proof of no change. Else the normal interval.
    `groups` clusters the error; where no group differs from another, one of each says how wide it is.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values differ in number: {len(before)} and {len(after)}")
    pairs = list(zip(before, after, strict=True))
    if groups is not None and len(set(groups)) < len(pairs):
        changes = mean_interval_normal([b - a for a, b in pairs], groups)
        if not changes.stderr < _NO_SPREAD:
            return changes
        ones = list(dict(zip(groups, pairs, strict=True)).values())
        alone = paired_interval([a for a, _ in ones], [b for _, b in ones])
        return Estimate(changes.value, alone.stderr, alone.low, alone.high, len(pairs))
    plain = mean_interval_normal([b - a for a, b in pairs])
    if not pairs or not {v for pair in pairs for v in pair} <= {0, 1}:
        return plain
    n = len(pairs)
    gained = (sum(a < b for a, b in pairs) + 0.5) / (n + 2)
    lost = (sum(a > b for a, b in pairs) + 0.5) / (n + 2)
    centre = gained - lost
    stderr = math.sqrt((gained + lost - centre**2) / (n + 2))
    low, high = max(centre - _Z * stderr, -1.0), min(centre + _Z * stderr, 1.0)
    return Estimate(plain.value, stderr, low, high, n)


def unpaired_interval(before: Estimate, after: Estimate) -> Estimate:
    """after - before of independent samples, normal 95% interval; n is the smaller of the two."""
    value = after.value - before.value
    stderr = math.hypot(before.stderr, after.stderr)
    low, high = value - _Z * stderr, value + _Z * stderr
    return Estimate(value, stderr, low, high, min(before.n, after.n))


def mean_of_estimates(parts: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent estimates, normal 95% interval; n is the sum of theirs."""
    n = sum(part.n for part in parts)
    if not parts:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    value = sum(part.value for part in parts) / len(parts)
    stderr = math.sqrt(sum(part.stderr**2 for part in parts)) / len(parts)
    return Estimate(value, stderr, value - _Z * stderr, value + _Z * stderr, n)


def mean_interval_normal(values: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """Mean with the normal interval, whatever the values are; `groups` clusters the error."""
    n = len(values)
    mean, stderr, _ = _clustered(values, groups)
    return Estimate(mean, stderr, mean - _Z * stderr, mean + _Z * stderr, n)


def _clustered(values: Sequence[float], groups: Sequence[str] | None) -> tuple[float, float, int]:
    """Mean, its standard error with the factor G / (G - 1), and the number G of groups."""
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return math.nan, math.nan, 0
    mean = float(x.mean())
    names = list(groups) if groups is not None else [str(i) for i in range(n)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros(len(index))
    np.add.at(sums, [index[name] for name in names], x - mean)
    count = len(index)
    stderr = math.sqrt((sums**2).sum() * count / (count - 1)) / n if count > 1 else math.nan
    return mean, stderr, count


def _wilson(p: float, n: float) -> tuple[float, float]:
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)
