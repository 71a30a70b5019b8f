"""Advantages and the policy loss against values worked out by hand."""

import math

import pytest
import torch

from rl.advantage import advantages
from rl.loss import LossSettings, PolicyBatch, policy_loss
from tests.unit.rl.batches import loss_batch


def test_group_advantages_by_hand() -> None:
    # rewards 1, 0, 0: mean 1/3, std (n - 1) = sqrt(1/3)
    std = math.sqrt(1 / 3)
    expected = [(2 / 3) / (std + 1e-4), (-1 / 3) / (std + 1e-4), (-1 / 3) / (std + 1e-4)]
    assert advantages([1.0, 0.0, 0.0], "group") == pytest.approx(expected)
    assert advantages([1.0, 0.0, 0.0], "leave_one_out") == pytest.approx([1.0, -0.5, -0.5])
    assert advantages([1.0, 0.0, 0.0], "mean") == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_failed_samples_count_nowhere() -> None:
    assert advantages([1.0, None, 0.0], "mean") == [0.5, None, -0.5]
    assert advantages([1.0, None, None], "group") == [None, None, None]


def batch(**changes: torch.Tensor) -> PolicyBatch:
    fields = {
        "old": torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64),
        "engine": torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64),
        "advantage": torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64),
        "mask": torch.tensor([True, True, True]),
        "sequence": torch.tensor([0, 0, 1]),
    }
    return loss_batch(**{**fields, **changes}, num_sequences=2)  # type: ignore[arg-type]


def test_clipping_and_aggregation_by_hand() -> None:
    # ratios 1.5 (clipped to 1.2), 1.0, 0.5 with A = -1: min(-0.5, -0.8) = -0.8
    new = torch.tensor([-1 + math.log(1.5), -2.0, -0.5 + math.log(0.5)], dtype=torch.float64)
    loss, metrics = policy_loss(new, batch(), LossSettings(), total_tokens=3, total_sequences=2)
    assert float(loss) == pytest.approx(-(1.2 + 1.0 - 0.8) / 3)
    assert metrics["clipped_sum"] == 2
    by_sequence = LossSettings(aggregate="sequence")
    loss, _ = policy_loss(new, batch(), by_sequence, total_tokens=3, total_sequences=2)
    assert float(loss) == pytest.approx((-(1.2 + 1.0) / 2 + 0.8) / 2)
    constant = LossSettings(aggregate="constant", max_tokens=10)
    loss, _ = policy_loss(new, batch(), constant, total_tokens=3, total_sequences=2)
    assert float(loss) == pytest.approx(-(1.2 + 1.0 - 0.8) / 20)


def test_masked_tokens_get_exactly_no_gradient() -> None:
    new = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True])
    loss, _ = policy_loss(new, batch(mask=mask), LossSettings(), total_tokens=2, total_sequences=2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([-0.5, 0.0, 0.5])
    assert new.grad[1] == 0.0


def test_the_engine_correction_is_truncated() -> None:
    new = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    engine = torch.tensor([-1.0 - math.log(5), -2.0, -0.5], dtype=torch.float64)
    loss, metrics = policy_loss(
        new, batch(engine=engine), LossSettings(), total_tokens=3, total_sequences=2
    )
    assert float(loss) == pytest.approx(-(2.0 + 1.0 - 1.0) / 3)  # 5 is cut to 2
    assert metrics["mismatch_kl_sum"] == pytest.approx(5 - 1 - math.log(5))
