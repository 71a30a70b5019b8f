import math
import random

import numpy as np
import pytest

from workbench.records import Estimate
from workbench.statistics import (
    mean_interval,
    mean_interval_normal,
    mean_of_estimates,
    paired_interval,
    unpaired_difference,
)


def test_wilson_interval_of_none_in_ten() -> None:
    """[derived] z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.27753."""
    found = mean_interval([0.0] * 10)
    assert (found.value, found.low, found.n) == (0.0, 0.0, 10)
    assert found.high == pytest.approx(0.277533, abs=1e-6)


def test_repeats_of_a_question_are_one_observation() -> None:
    """Each question four times over: same mean, and the error of the questions alone."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.3]
    four = mean_interval(
        [v for v in values for _ in range(4)], [str(i) for i in range(6) for _ in range(4)]
    )
    once = mean_interval_normal(values)
    assert four.value == pytest.approx(once.value)
    assert four.stderr == pytest.approx(once.stderr)


def test_paired_interval_of_fractions_is_that_of_the_differences() -> None:
    """[derived] differences 0.1, 0.3, 0.5: mean 0.3, sd 0.2, stderr 0.2 / sqrt(3)."""
    found = paired_interval([0.1, 0.1, 0.2], [0.2, 0.4, 0.7])
    assert found.value == pytest.approx(0.3)
    assert found.stderr == pytest.approx(0.2 / math.sqrt(3))
    assert found.high == pytest.approx(0.3 + 1.959964 * 0.115470, abs=1e-5)


def test_paired_interval_of_right_and_wrong() -> None:
    """[derived] n 100, 30 gained, 10 lost: (30.5 - 10.5) / 102 = 0.196078,
    stderr sqrt((41 / 102 - 0.196078^2) / 102) = 0.059698."""
    before = [0.0] * 30 + [1.0] * 10 + [1.0] * 60
    after = [1.0] * 30 + [0.0] * 10 + [1.0] * 60
    found = paired_interval(before, after)
    assert found.value == pytest.approx(0.2)
    assert found.stderr == pytest.approx(0.059698, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.079072, 0.313084), abs=1e-5)
    assert found.clear_of_zero


def test_no_change_in_a_few_questions_is_not_certainty() -> None:
    found = paired_interval([0.0] * 20, [0.0] * 20)
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert found.high > 0.05
    assert not found.clear_of_zero


def test_a_paired_interval_is_clustered() -> None:
    """[derived] two questions of two wordings each, one of which is gained: 0.5 of 2, not of 4."""
    found = paired_interval([0, 0, 0, 0], [1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (found.value, found.stderr, found.n) == (0.5, pytest.approx(0.5), 4)
    assert found.low == pytest.approx(0.5 - 1.959964 * 0.5, abs=1e-5)
    # No change in any of 20 questions, asked twice each, is what it is in 20 asked once.
    once = paired_interval([0.0] * 20, [0.0] * 20)
    twice = paired_interval([0.0] * 40, [0.0] * 40, [str(i // 2) for i in range(40)])
    assert (twice.value, twice.low, twice.high) == (0, once.low, once.high) and twice.low < 0
    same = paired_interval(
        [0.0] * 30 + [1.0] * 10, [1.0] * 30 + [0.0] * 10, list(map(str, range(40)))
    )
    assert same == paired_interval([0.0] * 30 + [1.0] * 10, [1.0] * 30 + [0.0] * 10)


def test_the_paired_interval_covers_the_truth_in_95_of_100() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        outcome = rng.choice(4, size=80, p=[0.35, 0.25, 0.1, 0.3])  # both wrong, gained, lost, both
        before, after = (outcome >= 2).astype(float), np.isin(outcome, (1, 3)).astype(float)
        found = paired_interval(before.tolist(), after.tolist())
        covered += found.low <= 0.15 <= found.high
    assert 0.93 <= covered / 1000 <= 0.975


def test_pairing_is_narrower_than_not_pairing_where_answers_agree() -> None:
    rng = random.Random(1)
    before = [float(rng.random() < 0.5) for _ in range(200)]
    after = [1.0 if rng.random() < 0.1 else b for b in before]
    paired = paired_interval(before, after)
    unpaired = unpaired_difference(mean_interval(before), mean_interval(after)).difference
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.stderr < 0.5 * unpaired.stderr


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_interval([0.0, 1.0], [1.0])


def test_mean_of_estimates() -> None:
    """[derived] mean of 0.2 and 0.6; stderr sqrt(0.03^2 + 0.04^2) / 2 = 0.025."""
    parts = [Estimate(0.2, 0.03, (0, 1), 50), Estimate(0.6, 0.04, (0, 1), 70)]
    found = mean_of_estimates(parts)
    assert found.value == pytest.approx(0.4)
    assert found.n == 120
    assert found.stderr == pytest.approx(0.025)
    assert found.low == pytest.approx(0.4 - 1.959964 * 0.025, abs=1e-6)


def test_nothing_measured_is_nan_not_zero() -> None:
    for found in (mean_interval([]), mean_of_estimates([]), paired_interval([], [])):
        assert math.isnan(found.value)
        assert found.n == 0
        assert not found.clear_of_zero


def test_one_repeat_does_not_end_wilsons_interval() -> None:
    """59 of 60 right: with two of them wordings of one problem the interval is nearly the same."""
    values, names = [0.0] + [1.0] * 59, [f"q{i}" for i in range(60)]
    plain = mean_interval(values)
    found = mean_interval(values, [*names[:-1], names[-2]])
    assert plain.high < 1 and found.high < 1
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.01)
