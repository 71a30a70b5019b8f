"""Statistics of samples: pass@k, maj@k, strata, paired comparison with a p-value, power.

Intervals of means are those of workbench.statistics: clustered by question, and where questions ask
one problem in several wordings, by problem.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reward.votes import majority, voted
from workbench.statistics import (
    Estimate,
    mean_interval,
    mean_interval_normal,
    paired_interval,
    problem_of,
)

_Z = 1.959963984540054  # normal quantile of 97.5%
_Z_POWER = 0.8416212335729143  # normal quantile of 80%
_NO_SPREAD = 1e-12  # what rounding leaves of a standard error that is 0
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


def majority_value(rows: Sequence[Mapping[str, Any]]) -> float:
    """The value of the commonest answer of one question's samples, equal ones counted together.

    The answer of the lowest sample wins a tie. Replies from which no answer could be read, and checks
    that failed, do not vote; with no vote at all the value is 0.
    """
    winner = majority(rows)
    return 0.0 if winner is None else float(winner["value"])


def by_question(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Question id -> its rows."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["id"]), []).append(row)
    return groups


def sampled_metrics(rows: Sequence[Mapping[str, Any]], num_samples: int) -> dict[str, Estimate]:
    """pass@k for k = 1, 2, 4, ... up to the number of samples, and maj@k where answers can be read.

    Only for right or wrong values. A question with failed samples counts where enough are left.
    """
    if num_samples < 2 or any(row["value"] not in (0.0, 1.0) for row in rows):
        return {}
    groups = list(by_question(rows).values())
    out = {}
    for k in sorted({*(2**i for i in range(num_samples.bit_length())), num_samples}):
        if k <= num_samples:
            enough = [g for g in groups if len(g) >= k]
            values = [pass_at_k(len(g), sum(r["value"] == 1 for r in g), k) for g in enough]
            out[f"pass@{k}"] = mean_interval(values, [problem_of(g[0]) for g in enough])
    if any(voted(row) is not None for row in rows):
        whole = [g for g in groups if len(g) == num_samples]
        out[f"maj@{num_samples}"] = mean_interval(
            [majority_value(g) for g in whole], [problem_of(g[0]) for g in whole]
        )
    return out


def weighted(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Sum of weight times independent estimate, with the normal 95% interval inside [0, 1]."""
    value = sum(w * e.value for w, e in parts)
    # A stratum without spread (all right, all wrong) still is uncertain: Wilson's width says so.
    errors = [w * _width(e) for w, e in parts]
    stderr = math.sqrt(sum(error**2 for error in errors))
    low, high = max(value - _Z * stderr, 0.0), min(value + _Z * stderr, 1.0)
    return Estimate(value, stderr, low, high, sum(e.n for _, e in parts))


def ratio(parts: Sequence[tuple[str, float, float]]) -> Estimate:
    """Sum of numerators by sum of denominators, its error linearised and clustered by question.

    parts: (question, numerator, denominator) of each sample; the ratio lies in [0, 1].
    """
    whole = sum(part[2] for part in parts)
    if not whole:
        return mean_interval([])
    value = sum(part[1] for part in parts) / whole
    excess: dict[str, float] = {}
    for question, above, below in parts:
        excess[question] = excess.get(question, 0.0) + above - value * below
    count = len(excess)
    if count < 2:
        return Estimate(value, math.nan, math.nan, math.nan, count)
    stderr = math.sqrt(sum(x * x for x in excess.values()) * count / (count - 1)) / whole
    if value in (0.0, 1.0):  # no spread: Wilson's, by the number of questions
        return mean_interval([value] * count)
    return Estimate(
        value, stderr, max(value - _Z * stderr, 0.0), min(value + _Z * stderr, 1.0), count
    )


def _width(estimate: Estimate) -> float:
    if estimate.stderr > 0 or math.isnan(estimate.low):
        return estimate.stderr
    return (estimate.high - estimate.low) / (2 * _Z)


def strata(
    rows: Sequence[Mapping[str, Any]], key: str = "domain", value: str = "value"
) -> dict[str, Estimate]:
    """Mean of each category's rows, clustered by problem."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(row)
    return {
        name: mean_interval([float(r[value]) for r in own], [problem_of(r) for r in own])
        for name, own in groups.items()
    }


@dataclass(frozen=True)
class Comparison:
    """after - before on the same questions. p: two-sided. method: the test behind it."""

    difference: Estimate
    p: float
    method: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found = self.difference
        return {
            "difference": found.value,
            "stderr": found.stderr,
            "ci95": [found.low, found.high],
            "n": found.n,
            "p": self.p,
            "method": self.method,
            "note": self.note,
        }


def compare(
    before: Mapping[str, float],
    after: Mapping[str, float],
    problems: Mapping[str, str] | None = None,
) -> Comparison | None:
    """Compare two models by their questions' mean values; None where they share no question.

    Right-or-wrong values: McNemar's test, exact. Else the paired t-test, or, where every question
    changed by the same amount and so nothing tells the error, the sign test without an interval.
    problems: of each question. Where several ask one, error and p-value are clustered by it (t-test),
    McNemar's being left for problems asked equally often whose wordings agree.
    """
    shared = [question for question in before if question in after]
    if not shared:
        return None
    old, new = [before[q] for q in shared], [after[q] for q in shared]
    asked = [(problems or {}).get(q, q) for q in shared]
    difference = paired_interval(old, new, asked)
    old, new, alike = _means(old, asked), _means(new, asked), len(set(Counter(asked).values())) == 1
    if {*old, *new} <= {0.0, 1.0} and alike:
        gained = sum(a < b for a, b in zip(old, new, strict=True))
        lost = sum(a > b for a, b in zip(old, new, strict=True))
        p, method = mcnemar(gained, lost), f"McNemar, exact: {gained} gained, {lost} lost"
    elif _spread(old, new) < _NO_SPREAD:
        changed = len(old) if abs(difference.value) > _NO_SPREAD else 0
        p, method = mcnemar(changed, 0), "sign test: no question differs from another"
        difference = replace(difference, stderr=math.nan, low=math.nan, high=math.nan)
    else:
        p = _t_test(difference, len(old))
        method = "t-test, clustered by problem" if len(old) < len(shared) else "paired t-test"
    return Comparison(difference, p, method, power_note(len(old), _disagreement(old, new)))


def _spread(old: Sequence[float], new: Sequence[float]) -> float:
    return mean_interval_normal([b - a for a, b in zip(old, new, strict=True)]).stderr


def _means(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Mean of each group, in the order in which groups first come."""
    sums: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        sums.setdefault(group, []).append(value)
    return [sum(own) / len(own) for own in sums.values()]


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


def _disagreement(before: Sequence[float], after: Sequence[float]) -> float:
    """Mean squared difference: for right-or-wrong values the share that changed sides."""
    pairs = zip(before, after, strict=True)
    # Half a question more, so that no change in few questions does not count as certainty.
    return (sum((b - a) ** 2 for a, b in pairs) + 0.5) / (len(before) + 1)


def detectable(n: int, disagreement: float) -> float:
    """The smallest true difference that n paired questions find 4 times in 5 at the 5% level."""
    return (_Z + _Z_POWER) * math.sqrt(disagreement / n) if n else math.nan


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
