"""Each bound of the policy loss on its own, and the KL term, against values worked out by hand."""

import math

import pytest
import torch

from rl.loss import LossSettings, policy_loss
from tests.unit.rl.batches import loss_batch

OLD = (-1.0, -2.0, -0.5)


def loss_of(
    ratios: list[float], gains: list[float], settings: LossSettings, **more: object
) -> float:
    old = torch.tensor(OLD, dtype=torch.float64)
    new = old + torch.tensor([math.log(r) for r in ratios], dtype=torch.float64)
    batch = loss_batch(
        old, old, torch.tensor(gains, dtype=torch.float64), torch.ones(3, dtype=torch.bool),
        torch.tensor([0, 0, 1]), 2, **more,
    )  # type: ignore[arg-type]  # fmt: skip
    loss, _ = policy_loss(new, batch, settings, total_tokens=3, total_sequences=2)
    return float(loss)


def test_each_side_of_the_clip_has_its_own_bound() -> None:
    """A > 0: min(r, 1 + high); A < 0: -max(r, 1 - low), so a ratio above is not bounded there."""
    settings = LossSettings(clip_low=0.1, clip_high=0.3)
    assert loss_of([1.5, 1.2, 0.5], [1.0, 1.0, 1.0], settings) == pytest.approx(
        -(1.3 + 1.2 + 0.5) / 3
    )
    assert loss_of([1.5, 0.95, 0.5], [-1.0] * 3, settings) == pytest.approx((1.5 + 0.95 + 0.9) / 3)


def test_the_dual_clip_bounds_what_a_bad_reply_can_cost() -> None:
    settings = LossSettings(clip_low=0.1, clip_high=0.3, clip_most=3.0)
    assert loss_of([5.0, 2.0, 1.0], [-1.0] * 3, settings) == pytest.approx((3.0 + 2.0 + 1.0) / 3)


def test_the_kl_term_is_k3_of_the_policy_from_the_reference() -> None:
    """exp(gap) - gap - 1 with gap = log reference - log new: 2 - ln 2 - 1, 0 and 1/2 + ln 2 - 1."""
    reference = torch.tensor(
        [OLD[0] + math.log(2), OLD[1], OLD[2] - math.log(2)], dtype=torch.float64
    )
    settings = LossSettings(kl_coefficient=0.25)
    loss = loss_of([1.0] * 3, [0.0] * 3, settings, reference=reference)
    expected = (2 - math.log(2) - 1) + (0.5 + math.log(2) - 1)
    assert loss == pytest.approx(0.25 * expected / 3)
    # One that differs one way alone: the other divergence would be 1/2 + ln 2 - 1.
    reference = torch.tensor([OLD[0] + math.log(2), *OLD[1:]], dtype=torch.float64)
    loss = loss_of([1.0] * 3, [0.0] * 3, settings, reference=reference)
    assert loss == pytest.approx(0.25 * (1 - math.log(2)) / 3)
