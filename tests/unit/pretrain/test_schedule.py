"""WSD against its closed form."""

import pytest
from pydantic import ValidationError

from pretrain.compress.config import DistillConfig, DistillScheduleConfig
from pretrain.config import PretrainConfig, ScheduleConfig
from pretrain.schedule import WSD
from sft.config import SftConfig
from workbench.errors import UserError
from workbench.schema import Section


def test_the_papers_schedule_in_its_three_parts() -> None:
    trillion = 10**12
    wsd = WSD(4.5e-4, 4.5e-6, 8 * 10**9, 36 * trillion // 10, 20 * trillion, "linear")  # [paper]
    assert wsd.lr(4 * 10**9) == pytest.approx(2.25e-4, rel=1e-6)  # half of the warm-up
    assert wsd.lr(8 * 10**9) == wsd.lr(164 * trillion // 10) == 4.5e-4  # stable to 16.4T
    assert wsd.lr(182 * trillion // 10) == pytest.approx((4.5e-4 + 4.5e-6) / 2)  # half-way down
    assert wsd.lr(20 * trillion) == pytest.approx(4.5e-6)


def test_minus_sqrt_falls_faster_at_first() -> None:
    wsd = WSD(1.0, 0.0, 0, 100, 100, "minus_sqrt")
    assert wsd.lr(25) == pytest.approx(0.5)  # 1 - sqrt(1/4)
    assert wsd.lr(100) == 0.0


def test_parts_longer_than_the_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than the whole"):
        WSD(1.0, 0.0, 60, 60, 100)


def test_a_decay_that_would_raise_the_rate_is_refused() -> None:
    for schedule in (ScheduleConfig, DistillScheduleConfig):
        # A recipe that sets the peak alone is told of the default beside it.
        with pytest.raises(
            UserError, match=r"min_lr .* is above peak_lr 1e-06: .* write min_lr, at most 1e-06"
        ):
            schedule.read({"peak_lr": 1e-6}, where="x")
        schedule.read({"peak_lr": 1e-6, "min_lr": 1e-6}, where="x")


@pytest.mark.parametrize("config", [PretrainConfig, DistillConfig, SftConfig])
def test_betas_are_below_one(config: type[Section]) -> None:
    for betas in ([0.9, 1.5], [-0.1, 0.9], [0.9, 1.0]):
        with pytest.raises(ValidationError, match=r"betas\.[01]\n"):
            config.model_validate({"betas": betas})
