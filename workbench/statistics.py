"""Means with honest intervals. Every number that is shown carries its n and one of these."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.records import UNKNOWN, Difference, Estimate, Questions

Z = 1.959963984540054
"""Half the width of a 95% interval in standard errors: the normal quantile of 97.5%."""
NO_SPREAD = 1e-12
"""What rounding leaves of a standard error that is 0."""


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
        return UNKNOWN
    mean, stderr, count = _clustered(values, groups)
    binary = {float(value) for value in values} <= {0.0, 1.0}
    if binary and (count == n or stderr < NO_SPREAD):
        low, high = _wilson(mean, count)
    elif binary and stderr > 0:
        # As many independent values would have this error: one repeat must not end Wilson's interval.
        low, high = _wilson(mean, min(mean * (1 - mean) / stderr**2, n))
    else:
        return _normal(mean, stderr, n)
    return Estimate(mean, stderr, (low, high), n)


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
        if not changes.stderr < NO_SPREAD:
            return changes
        ones = list(dict(zip(groups, pairs, strict=True)).values())
        alone = paired_interval([a for a, _ in ones], [b for _, b in ones])
        return Estimate(changes.value, alone.stderr, alone.ci95, len(pairs))
    plain = mean_interval_normal([b - a for a, b in pairs])
    if not pairs or not {v for pair in pairs for v in pair} <= {0, 1}:
        return plain
    n = len(pairs)
    gained = (sum(a < b for a, b in pairs) + 0.5) / (n + 2)
    lost = (sum(a > b for a, b in pairs) + 0.5) / (n + 2)
    centre = gained - lost
    stderr = math.sqrt((gained + lost - centre**2) / (n + 2))
    ends = max(centre - Z * stderr, -1.0), min(centre + Z * stderr, 1.0)
    return Estimate(plain.value, stderr, ends, n)


def unpaired_difference(before: Estimate, after: Estimate, **about: Any) -> Difference:
    """after - before of independent samples, normal 95% interval; n is the smaller of the two."""
    stderr = math.hypot(before.stderr, after.stderr)
    change = _normal(after.value - before.value, stderr, min(before.n, after.n))
    return Difference(before, after, change, paired=False, **about)


def paired_difference(
    before: Sequence[float | None],
    after: Sequence[float | None],
    problems: Sequence[str] | None = None,
    **about: Any,
) -> Difference:
    """Two measurements of the same questions, over those that both have.

    None marks a failed sample: its question is left out on both sides and counted in `failed`.
    problems: what each question asks, by which all errors are clustered. about: further fields.
    """
    asked = problems if problems is not None else [str(number) for number in range(len(before))]
    both = [
        (b, a, problem)
        for b, a, problem in zip(before, after, asked, strict=True)
        if b is not None and a is not None
    ]
    old, new, names = [b for b, _, _ in both], [a for _, a, _ in both], [p for _, _, p in both]
    return Difference(
        mean_interval(old, names),
        mean_interval(new, names),
        paired_interval(old, new, names),
        problems=len(set(names)),
        failed=len(before) - len(both),
        **about,
    )


def difference_of_models(before: Questions, after: Questions, **about: Any) -> Difference | None:
    """after - before on the questions that both models answered; None where they share none."""
    shared = [key for key in before if key in after]
    if not shared:
        return None
    old, new = ([side[key].value for key in shared] for side in (before, after))
    return paired_difference(old, new, asks_of(shared, before, after), **about)


def asks_of(shared: Sequence[str], before: Questions, after: Questions) -> list[str]:
    """What each question asks, by either's samples: those of an earlier version name no problem."""
    return [p if (p := before[key].asks) != key else after[key].asks for key in shared]


def mean_of_differences(parts: Sequence[Difference], **about: Any) -> Difference:
    """Unweighted mean over benchmarks."""
    before, after, change = (
        mean_of_estimates([getattr(part, name) for part in parts])
        for name in ("before", "after", "difference")
    )
    return Difference(before, after, change, paired=all(part.paired for part in parts), **about)


def mean_of_estimates(parts: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent estimates, normal 95% interval; n is the sum of theirs.

    One alone stays as it is: the mean of one would lose its own form of interval (Wilson's).
    """
    if len(parts) < 2:
        return parts[0] if parts else UNKNOWN
    n = sum(part.n for part in parts)
    value = sum(part.value for part in parts) / len(parts)
    stderr = math.sqrt(sum(part.stderr**2 for part in parts)) / len(parts)
    return _normal(value, stderr, n)


def mean_over_seeds(parts: Sequence[Estimate]) -> Estimate:
    """Mean of one measure over runs with different seeds; n is the sum of theirs. One alone stays as it is.

    The 95% half-width has two independent parts: Student's t with S - 1 degrees of freedom times the
    spread between the S seeds over sqrt(S), and the normal quantile times the mean of their standard
    errors. The second does not shrink with S, because seeds may share their questions.
    """
    if len(parts) < 2:
        return parts[0] if parts else UNKNOWN
    values = np.asarray([part.value for part in parts])
    between = float(values.std(ddof=1)) / math.sqrt(len(parts))
    known = [part.stderr for part in parts if part.stderr == part.stderr]
    within = sum(known) / len(known) if known else 0.0
    half = math.hypot(_t_quantile(len(parts) - 1) * between, Z * within)
    value = float(values.mean())
    ends = value - half, value + half
    return Estimate(value, math.hypot(between, within), ends, sum(part.n for part in parts))


def _t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t."""
    from scipy import stats  # noqa: PLC0415 - half a second, and reports of one run do without

    return float(stats.t.ppf(0.975, freedom))


def mean_interval_normal(values: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """Mean with the normal interval, whatever the values are; `groups` clusters the error."""
    n = len(values)
    mean, stderr, _ = _clustered(values, groups)
    return _normal(mean, stderr, n)


def ratio_interval(
    before: Sequence[float], after: Sequence[float], groups: Sequence[str] | None = None
) -> Estimate:
    """Sum of after by sum of before, of paired values; 95% interval by the delta method.

    The residuals after - ratio * before, over the mean of before, have the ratio's standard error,
    clustered by `groups`.
    """
    x, y = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    n = len(x)
    if n == 0 or x.mean() == 0:
        return Estimate(math.nan, math.nan, (math.nan, math.nan), n)
    ratio = float(y.mean() / x.mean())
    spread = (y - ratio * x) / x.mean()
    # The residuals' mean is 0, so theirs is the clustered error of a mean.
    return _normal(ratio, mean_interval_normal(spread.tolist(), groups).stderr, n)


def two_way_interval(
    values: Sequence[float], one: Sequence[str], other: Sequence[str]
) -> tuple[Estimate, float]:
    """(mean, two-sided p of 0) of values that two things group at once, such as seeds and problems.

    The variance is the one clustered by the first, plus that by the second, less that by both (Cameron,
    Gelbach and Miller 2011), each with its factor G / (G - 1), and at least the larger of the first two.
    Interval and p are Student's with the smaller number of groups less one degree of freedom: with three
    seeds it is wide, because three seeds say little. n: pairs of the two.
    """
    if not values:
        return UNKNOWN, math.nan
    both = [f"{a}\0{b}" for a, b in zip(one, other, strict=True)]
    mean, by_one, groups = _clustered(values, one)
    _, by_other, others = _clustered(values, other)
    _, by_both, cells = _clustered(values, both)
    least = min(groups, others)
    if least < 2:
        return Estimate(mean, math.nan, (math.nan, math.nan), cells), math.nan
    variance = max(by_one**2 + by_other**2 - by_both**2, by_one**2, by_other**2)
    stderr = math.sqrt(variance)
    from scipy import stats  # noqa: PLC0415 - half a second, and reports do without

    half = _t_quantile(least - 1) * stderr
    p = 1.0 if stderr < NO_SPREAD and abs(mean) < NO_SPREAD else math.nan
    if stderr >= NO_SPREAD:
        p = float(2 * stats.t.sf(abs(mean) / stderr, least - 1))
    return Estimate(mean, stderr, (mean - half, mean + half), cells), p


def _normal(value: float, stderr: float, n: int) -> Estimate:
    return Estimate(value, stderr, (value - Z * stderr, value + Z * stderr), n)


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
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)
