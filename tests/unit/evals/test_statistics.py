"""Sample statistics against values derived by hand or by scipy."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

import evals.statistics
from engine.protocol import Sampling
from evals.jobs import Job
from evals.registry import benchmark
from evals.statistics import (
    detectable,
    holm,
    majority_value,
    mcnemar,
    pass_at_k,
    ratio,
    sampled_metrics,
    strata,
    weighted,
)
from evals.summary import summarise
from workbench.records import Difference, Estimate, Sample, from_json, questions_of
from workbench.statistics import mean_interval


@pytest.mark.parametrize(("n", "c"), [(4, 1), (5, 2), (6, 0), (6, 6), (7, 3)])
def test_pass_at_k_is_the_mean_over_all_subsets(n: int, c: int) -> None:
    right = [i < c for i in range(n)]
    for k in range(1, n + 1):
        subsets = [any(s) for s in combinations(right, k)]
        assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_more_than_was_sampled_is_unknown() -> None:
    assert math.isnan(pass_at_k(4, 2, 8))


def _row(question: str, value: float, answer: str | None) -> Sample:
    return Sample(question, value=value, why={"extracted": answer} if answer else {})


def compare(
    before: dict[str, float], after: dict[str, float], problems: dict[str, str] | None = None
) -> Difference | None:
    old, new = (
        questions_of(Sample(q, value=v, problem=(problems or {}).get(q)) for q, v in side.items())
        for side in (before, after)
    )
    return evals.statistics.compare(old, new)


def test_majority() -> None:
    assert majority_value([_row("q", 0, "3"), _row("q", 1, "4"), _row("q", 1, "4")]) == 1
    assert majority_value([_row("q", 0, "3"), _row("q", 1, "4")]) == 0  # the first wins a tie
    assert majority_value([_row("q", 0, None), _row("q", 0, None), _row("q", 1, "4")]) == 1
    assert majority_value([_row("q", 0, None)]) == 0


def test_sampled_metrics_by_hand() -> None:
    rows = [_row("a", 1, "4"), _row("a", 0, "3"), _row("b", 0, "1"), _row("b", 0, "1")]
    found = sampled_metrics(rows, 2)
    assert found["pass@1"].value == pytest.approx(0.25)
    assert found["pass@2"].value == pytest.approx(0.5)
    assert found["maj@2"].value == pytest.approx(0.5)  # a: 4 came first; b: wrong
    assert sampled_metrics(rows[:1], 1) == {}
    assert sampled_metrics([_row("a", 0.5, None), _row("a", 1, None)], 2) == {}


def test_clustered_error_is_that_of_question_means() -> None:
    """With the same number of samples each, clustering equals the error of the question means."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, (20, 4)).astype(float)
    groups = [str(q) for q in range(20) for _ in range(4)]
    found = mean_interval(list(values.ravel()), groups)
    assert found.stderr == pytest.approx(stats.sem(values.mean(axis=1)))


def test_repeated_samples_without_spread_are_not_certainty() -> None:
    """Two questions of four samples each, all right: Wilson's interval of two questions."""
    wanted = stats.binomtest(2, 2).proportion_ci(method="wilson")
    found = mean_interval([1.0] * 8, ["a"] * 4 + ["b"] * 4)
    assert (found.low, found.high) == pytest.approx((wanted.low, 1.0))
    found = mean_interval([0.0] * 8, ["a"] * 4 + ["b"] * 4)
    assert (found.low, found.high) == pytest.approx((0.0, 1 - wanted.low))
    rows = [_row(q, 1, "4") for q in "ab" for _ in range(4)]
    for name, estimate in sampled_metrics(rows, 4).items():
        assert (estimate.low, estimate.high) == pytest.approx((wanted.low, 1.0)), name
    assert weighted([(1.0, mean_interval([1.0] * 8, ["a"] * 4 + ["b"] * 4))]).stderr > 0.1


def test_a_ratio_has_a_linearised_error_and_is_never_certain() -> None:
    """Steps passed by steps asked: against the jackknife over questions, and at its ends."""
    rng = np.random.default_rng(7)
    below = rng.integers(1, 6, 60).astype(float)
    above = rng.binomial(below.astype(int), 0.4).astype(float)
    found = ratio([(f"q{i}", above[i], below[i]) for i in range(60)])
    assert found.value == pytest.approx(above.sum() / below.sum())
    left = [(above.sum() - a) / (below.sum() - b) for a, b in zip(above, below, strict=True)]
    jackknife = math.sqrt(59 / 60 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert found.stderr == pytest.approx(jackknife, rel=0.03)
    for value in (0.0, 1.0):
        found = ratio([(f"q{i}", 3 * value, 3.0) for i in range(5)])
        wanted = stats.binomtest(int(5 * value), 5).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_no_interval_of_a_result_leaves_0_to_100_percent() -> None:
    """15 of 16 samples right over 8 questions: the normal interval would end at 105%."""
    rows: list[dict[str, Any]] = [
        {"id": f"q{i // 2}", "value": float(i > 0), "status": "ok", "finish_reason": "stop",
         "well_formed": True, "tokens": {"thinking": 0, "answer": 1}, "why": {"extracted": "4"}}
        for i in range(16)
    ]  # fmt: skip
    job = Job(benchmark("aime24"), None, None, Sampling(max_tokens=8, n=2, seed=1))
    result = summarise(job, rows, model="m", wall_s=0.0)
    for name, metric in result["metrics"].items():
        assert 0 <= metric["ci95"][0] <= metric["value"] <= metric["ci95"][1] <= 1, name
    plain = mean_interval([r["value"] for r in rows], [str(r["id"]) for r in rows])
    assert plain.high < 1 < plain.value + 1.96 * plain.stderr
    assert result["metrics"]["accuracy"]["stderr"] == pytest.approx(plain.stderr)


def test_values_over_1_and_below_0_have_a_result() -> None:
    """Episodes are worth the sum of their turns: three of them 0.2, 2 and 1, or -1."""

    def result(*values: float) -> dict[str, Any]:
        rows = [
            {"id": f"q{i}", "value": value, "status": "ok", "finish_reason": "stop",
             "well_formed": True, "tokens": {"thinking": 0, "answer": 1}, "why": {}}
            for i, value in enumerate(values)
        ]  # fmt: skip
        job = Job(benchmark("house"), None, 3, Sampling(max_tokens=8, seed=1))
        return summarise(job, rows, model="m", wall_s=0.0)

    found = result(0.2, 2.0, 1.0)
    mean, error = 3.2 / 3, stats.sem([0.2, 2.0, 1.0])
    low, high = found["metrics"]["accuracy"]["ci95"]
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), rel=1e-3)
    assert high > 1
    # Of two models that are independent, twice the variance 0.81333 of a question.
    assert found["detectable"] == pytest.approx(
        (1.96 + 0.8416) * math.sqrt(2 * 0.8133 / 3), rel=1e-3
    )
    assert result(-1.0, -1.0, 0.0)["metrics"]["accuracy"]["ci95"][0] < 0
    assert result(3.0, 3.0, 3.0)["detectable"] is None  # no spread tells nothing of another model
    assert result(3.0)["detectable"] is None


def test_none_right_in_a_few_questions_is_told_as_few() -> None:
    rows = [
        {"id": f"q{i}", "value": 0.0, "status": "ok", "finish_reason": "stop", "well_formed": True,
         "tokens": {"thinking": 0, "answer": 1}, "why": {}}
        for i in range(10)
    ]  # fmt: skip
    job = Job(benchmark("gsm8k-100"), None, 10, Sampling(max_tokens=8, seed=1))
    result = summarise(job, rows, model="m", wall_s=0.0)
    assert result["detectable"] > 0.1
    assert result["note"].startswith("n = 10")


def test_the_same_change_in_two_questions_is_no_proof() -> None:
    """A t-test of values without spread would say p = 0."""
    found = compare({"a": 0.5, "b": 0.25}, {"a": 0.75, "b": 0.5})
    assert found is not None
    assert found.p == pytest.approx(stats.binomtest(2, 2).pvalue)
    assert math.isnan(found.difference.low) and found.difference.value == 0.25
    same = compare({"a": 0.5, "b": 0.25}, {"a": 0.5, "b": 0.25})
    assert same is not None and same.p == 1.0
    one = compare({"a": 0.5}, {"a": 0.75})
    assert one is not None and math.isnan(one.p)


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (3, 9), (10, 10), (1, 0), (0, 0), (30, 12)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    total = gained + lost
    wanted = stats.binomtest(gained, total, 0.5).pvalue if total else 1.0
    assert mcnemar(gained, lost) == pytest.approx(wanted)


def test_comparison_of_right_or_wrong() -> None:
    before = {f"q{i}": float(i < 10) for i in range(30)}
    after = {f"q{i}": float(2 <= i < 20) for i in range(30)} | {"only here": 1.0}
    found = compare(before, after)
    assert found is not None
    assert found.difference.n == 30
    assert found.difference.value == pytest.approx(8 / 30)
    assert found.p == pytest.approx(stats.binomtest(10, 12).pvalue)
    assert "10 gained, 2 lost" in found.method
    assert found.note.startswith("n = 30")


def test_comparison_of_shares_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(5)
    old, new = rng.random(40), rng.random(40)
    found = compare(
        {str(i): float(v) for i, v in enumerate(old)},
        {str(i): float(v) for i, v in enumerate(new)},
    )
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(new, old).pvalue)
    assert compare({"a": 1.0}, {"b": 1.0}) is None


def test_wordings_of_one_problem_are_no_evidence_of_their_own() -> None:
    """Ten problems in four wordings each, all wordings alike, say what ten questions say."""
    before = {f"p{i}": float(i < 3) for i in range(10)}
    after = {f"p{i}": float(i < 7) for i in range(10)}
    once = compare(before, after)
    asked = {f"{p}-{w}": p for p in before for w in range(4)}
    found = compare({q: before[p] for q, p in asked.items()},
                    {q: after[p] for q, p in asked.items()}, asked)  # fmt: skip
    loose = compare({q: before[p] for q, p in asked.items()},
                    {q: after[p] for q, p in asked.items()})  # fmt: skip
    assert once is not None and found is not None and loose is not None
    assert found.difference.value == once.difference.value == pytest.approx(0.4)
    assert found.p == once.p == pytest.approx(0.125) and loose.p < 1e-3
    plain = mean_interval([after[p] - before[p] for p in before])
    assert found.difference.stderr == pytest.approx(plain.stderr)
    assert found.note.startswith("n = 10:")
    still = compare(dict.fromkeys(asked, 0.5), dict.fromkeys(asked, 0.75), asked)
    assert still is not None and still.method.startswith("sign test")
    assert still.p == pytest.approx(2 * 0.5**10)


def test_a_problem_in_many_wordings_does_not_turn_the_tests_sign() -> None:
    """One problem gained in 30 wordings, six single ones lost: what error and p-value are of is the
    questions' mean, clustered."""
    asked = {f"w{i}": "p" for i in range(30)} | {f"q{i}": f"q{i}" for i in range(6)}
    before = {q: float(p != "p") for q, p in asked.items()}
    found = compare(before, {q: 1 - v for q, v in before.items()}, asked)
    assert found is not None and found.difference.value == pytest.approx(24 / 36)
    assert found.method == "t-test, clustered by problem"
    ratio = found.difference.value / found.difference.stderr
    assert found.p == pytest.approx(2 * stats.t.sf(ratio, 6))


def test_every_metric_of_a_result_is_clustered_by_problem() -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"q{i}", "problem": f"p{i % 6}", "domain": "d", "value": float(i % 6 < 2),
         "status": "ok", "finish_reason": "stop", "well_formed": True,
         "tokens": {"thinking": 0, "answer": 1}, "why": {"extracted": "4"}}
        for i in range(24) for _ in range(2)
    ]  # fmt: skip
    job = Job(benchmark("aime24"), None, None, Sampling(max_tokens=8, n=2, seed=1))
    result = summarise(job, rows, model="m", wall_s=0.0)
    assert (result["n"], result["problems"]) == (24, 6)
    alone = mean_interval([float(i < 2) for i in range(6)])
    for name in ("accuracy", "pass@1", "maj@2"):
        assert result["metrics"][name]["stderr"] == pytest.approx(alone.stderr), name
    assert strata([from_json(Sample, row) for row in rows])["d"].stderr == pytest.approx(
        alone.stderr
    )


def test_detectable_difference_has_80_percent_power() -> None:
    """Simulated: a true difference of that size is found about 4 times in 5."""
    n, discordant = 400, 0.3
    effect = detectable(n, discordant)
    rng = np.random.default_rng(11)
    gain = (discordant + effect) / 2
    draws = rng.choice([1, -1, 0], (1000, n), p=[gain, discordant - gain, 1 - discordant])
    found = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(n))
    assert 0.75 < (found > 1.96).mean() < 0.85


def test_holm() -> None:
    found = holm([0.01, math.nan, 0.04, 0.03])
    assert found[0] == pytest.approx(0.03)
    assert found[2:] == pytest.approx([0.06, 0.06])
    assert math.isnan(found[1])


def test_weighted_strata() -> None:
    parts = strata(
        [Sample(str(i), domain="a" if i < 4 else "b", value=float(i % 2)) for i in range(8)]
    )
    assert parts["a"].value == 0.5
    found = weighted(
        [(0.25, Estimate(0.8, 0.02, (0, 1), 10)), (0.75, Estimate(0.4, 0.04, (0, 1), 30))]
    )
    assert found.value == pytest.approx(0.5)
    assert found.stderr == pytest.approx(math.sqrt((0.25 * 0.02) ** 2 + (0.75 * 0.04) ** 2))
    assert found.n == 40
    # All right in 10 questions is not certainty.
    certain = weighted([(1.0, mean_interval([1.0] * 10))])
    assert certain.stderr > 0.05
