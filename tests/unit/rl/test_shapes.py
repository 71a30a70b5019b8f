"""A tensor of another shape or type than a signature says ends the call, in tests."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from rl.loss import LossSettings, policy_loss
from tests.unit.rl.batches import loss_batch


def test_the_checker_is_on() -> None:
    three, two = torch.zeros(3), torch.zeros(2)
    batch = loss_batch(three, three, three, three.bool(), three.long(), 1)
    policy_loss(three, batch, LossSettings(), total_tokens=3, total_sequences=1)
    with pytest.raises(TypeCheckError):
        policy_loss(three[None], batch, LossSettings(), total_tokens=3, total_sequences=1)
    with pytest.raises(TypeCheckError):
        replace(batch, mask=three)
    with pytest.raises(TypeCheckError):
        replace(batch, engine=two)
