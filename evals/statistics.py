"""Statistics of samples: pass@k, maj@k, strata, paired comparison with a p-value, power.

Intervals of means are those of workbench.statistics: clustered by question, and where questions ask
one problem in several wordings, by problem.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from reward.votes import majority, voted
from workbench.records import UNKNOWN, Difference, Estimate, Questions, Sample, questions_of
from workbench.statistics import (
    NO_SPREAD,
    Z,
    asks_of,
    difference_of_models,
    mean_interval,
    mean_interval_normal,
    ratio_interval,
)

_Z_POWER = 0.8416212335729143  # normal quantile of 80%
# A difference of this many points is what papers argue about.
_WORTH_SEEING = 0.05


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Probability that k of the samples hold a right one: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021).

    NaN where there are fewer than k samples: nothing then says what k would give.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if num_samples < k or k < 1:
        return math.nan
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def majority_value(samples: Sequence[Sample]) -> float:
    """The value of the commonest answer of one question's samples, equal ones counted together.

    The answer of the lowest sample wins a tie. Replies from which no answer could be read, and checks
    that failed, do not vote; with no vote at all the value is 0.
    """
    winner = majority(samples)
    return 0.0 if winner is None else float(winner.value or 0)


def sampled_metrics(samples: Sequence[Sample], num_samples: int) -> dict[str, Estimate]:
    """pass@k for k = 1, 2, 4, ... up to the number of samples, and maj@k where answers can be read.

    Only for right or wrong values. A question with failed samples counts where enough are left.
    """
    if num_samples < 2 or any(sample.value not in (0.0, 1.0) for sample in samples):
        return {}
    groups = list(questions_of(samples).values())
    out = {}
    for k in sorted({*(2**i for i in range(num_samples.bit_length())), num_samples}):
        if k <= num_samples:
            enough = [q for q in groups if len(q.samples) >= k]
            values = [
                pass_at_k(len(q.samples), sum(s.value == 1 for s in q.samples), k) for q in enough
            ]
            out[f"pass@{k}"] = mean_interval(values, [q.asks for q in enough])
    if any(voted(sample) is not None for sample in samples):
        whole = [q for q in groups if len(q.samples) == num_samples]
        out[f"maj@{num_samples}"] = mean_interval(
            [majority_value(q.samples) for q in whole], [q.asks for q in whole]
        )
    return out


def weighted(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Sum of weight times independent estimate, with the normal 95% interval inside [0, 1]."""
    value = sum(w * e.value for w, e in parts)
    # A stratum without spread (all right, all wrong) still is uncertain: Wilson's width says so.
    errors = [w * _width(e) for w, e in parts]
    stderr = math.sqrt(sum(error**2 for error in errors))
    ends = max(value - Z * stderr, 0.0), min(value + Z * stderr, 1.0)
    return Estimate(value, stderr, ends, sum(e.n for _, e in parts))


def ratio(parts: Sequence[tuple[str, float, float]]) -> Estimate:
    """Sum of numerators by sum of denominators, its error linearised and clustered by question.

    parts: (question, numerator, denominator) of each sample; the ratio lies in [0, 1].
    """
    if not sum(part[2] for part in parts):
        return UNKNOWN
    names, above, below = zip(*parts, strict=True)
    found, count = ratio_interval(below, above, names), len(set(names))
    if found.value in (0.0, 1.0) and count > 1:  # no spread: Wilson's, by the number of questions
        return mean_interval([found.value] * count)
    return replace(found, ci95=(max(found.low, 0.0), min(found.high, 1.0)), n=count)


def _width(estimate: Estimate) -> float:
    if estimate.stderr > 0 or math.isnan(estimate.low):
        return estimate.stderr
    return (estimate.high - estimate.low) / (2 * Z)


def strata(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Mean value of each domain's samples, clustered by problem."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.domain, []).append(sample)
    return {
        name: mean_interval([float(s.value or 0) for s in own], [s.asks for s in own])
        for name, own in groups.items()
    }


def compare(before: Questions, after: Questions, against: str = "") -> Difference | None:
    """Compare two models by their questions' mean values; None where they share no question.

    Right-or-wrong values: McNemar's test, exact. Else the paired t-test, or, where every question
    changed by the same amount and so nothing tells the error, the sign test without an interval.
    Where several questions ask one problem, error and p-value are clustered by it (t-test), McNemar's
    being left for problems asked equally often whose wordings agree.
    """
    found = difference_of_models(before, after, against=against)
    if found is None:
        return None
    change = found.difference
    shared = [key for key in before if key in after]
    groups: dict[str, list[tuple[float, float]]] = {}
    for key, problem in zip(shared, asks_of(shared, before, after), strict=True):
        groups.setdefault(problem, []).append((before[key].value, after[key].value))
    # The mean of each problem's questions, before and after.
    pairs = [
        (sum(b for b, _ in own) / len(own), sum(a for _, a in own) / len(own))
        for own in groups.values()
    ]
    alike = len({len(own) for own in groups.values()}) == 1
    if {value for pair in pairs for value in pair} <= {0.0, 1.0} and alike:
        gained, lost = sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)
        p, method = mcnemar(gained, lost), f"McNemar, exact: {gained} gained, {lost} lost"
    elif mean_interval_normal([a - b for b, a in pairs]).stderr < NO_SPREAD:
        changed = len(pairs) if abs(change.value) > NO_SPREAD else 0
        p, method = mcnemar(changed, 0), "sign test: no question differs from another"
        change = replace(change, stderr=math.nan, ci95=(math.nan, math.nan))
    else:
        p = _t_test(change, len(pairs))
        method = "t-test, clustered by problem" if len(pairs) < len(shared) else "paired t-test"
    # The mean squared change: of right-or-wrong values the share that changed sides. Half a question
    # more, so that no change in few questions does not count as certainty.
    moved = (sum((a - b) ** 2 for b, a in pairs) + 0.5) / (len(pairs) + 1)
    return replace(found, difference=change, p=p, method=method, note=power_note(len(pairs), moved))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value that gains and losses are equally likely.

    >>> mcnemar(0, 5)
    0.0625
    """
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def _t_test(difference: Estimate, count: int) -> float:
    """Two-sided p-value of a mean difference whose error comes from `count` questions or problems."""
    from scipy.stats import t  # noqa: PLC0415 - a second to import, and plans import this module

    if count < 2:
        return math.nan
    return float(2 * t.sf(abs(difference.value / difference.stderr), count - 1))


def detectable(n: int, disagreement: float) -> float:
    """The smallest true difference that n paired questions find 4 times in 5 at the 5% level."""
    return (Z + _Z_POWER) * math.sqrt(disagreement / n) if n else math.nan


def power_note(n: int, disagreement: float) -> str:
    """What n questions cannot show; "" where they show 5 points."""
    least = detectable(n, disagreement)
    if not least > _WORTH_SEEING:
        return ""
    return (
        f"n = {n}: a true difference under {100 * least:.0f} points is missed more than 1 time in 5"
    )


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the same order; NaN stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    out, least = [math.nan] * len(values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * values[index]))
        out[index] = least
    return out
