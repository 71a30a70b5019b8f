"""When a stage is validated, which one is the best, and when a training ends early."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.checkpoint import Checkpoints, older_states, states
from workbench.records import UNKNOWN, Estimate
from workbench.validation import Validation, ValidationConfig


def validation(values: list[float], by: str = "loss", **settings: Any) -> Validation:
    """One whose measures give these values in turn."""
    left = iter(values)

    def measure() -> dict[str, Estimate]:
        value = next(left)
        return {by: Estimate(value, 0.1, (value - 0.2, value + 0.2), 4)}

    config = ValidationConfig.read({"every": 2, **settings}, where="validation")
    return Validation(config, measure, by=by)


def steps(made: Validation, total: int) -> list[int]:
    """The steps that are validated until the training ends."""
    out = []
    for step in range(total + 1):
        if made.at(step, last=step == total):
            out.append(step)
        if made.ended:
            break
    return out


def test_the_first_every_so_many_and_the_last() -> None:
    assert steps(validation([3.0, 2.0, 1.0, 0.5]), 5) == [0, 2, 4, 5]
    assert steps(Validation(), 5) == []


def test_the_metrics_carry_the_interval() -> None:
    found = validation([3.0]).at(0)
    assert found.pop("validation_s") >= 0
    assert found == {
        "validation/loss": 3.0,
        "validation/loss_low": 2.8,
        "validation/loss_high": 3.2,
    }


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("loss", [3.0, 1.0, 1.0, 2.0], 2),  # the first of equals
        ("reward", [0.1, 0.4, 0.4, 0.2], 2),
        ("reward", [0.5, 0.4, 0.4, 0.2], 0),  # the untrained model may be the best
        ("loss", [math.nan, 2.0, math.nan, 3.0], 2),  # unknown is never the best
    ],
)
def test_the_best_is_the_lowest_loss_or_the_highest_of_the_rest(
    by: str, values: list[float], best: int
) -> None:
    made = validation(values, by, keep="best")
    steps(made, 6)
    assert made.best_step == made.kept_step == best
    assert made.must_save(best) and made.must_return(6) == best and made.must_return(best) is None
    about = made.outputs()["validation"]
    assert about["best_step"] == best and about["better"] == ("lower" if by == "loss" else "higher")
    assert [line["step"] for line in about["history"]] == [0, 2, 4, 6]


def test_the_last_is_kept_where_nothing_else_is_asked_for() -> None:
    made = validation([1.0, 2.0, 3.0])
    steps(made, 4)
    assert (made.best_step, made.kept_step, made.must_return(4)) == (0, None, None)
    assert not made.must_save(0)


def test_patience_counts_validations_since_the_best() -> None:
    """Best at 4; 6 and 8 are no better: with patience 2 it ends at 8, with 3 it goes on to 12."""
    values = [5.0, 4.0, 3.0, 3.5, 3.0, 3.2, 3.1]
    assert steps(validation(values, patience=2), 12) == [0, 2, 4, 6, 8]
    assert steps(validation(values, patience=3), 12) == [0, 2, 4, 6, 8, 10]
    assert steps(validation(values), 12) == [0, 2, 4, 6, 8, 10, 12]


def test_its_state_goes_on_where_it_was(tmp_path: Path) -> None:
    """Saved with torch as plain values; a step that was validated is not validated again."""
    made = validation([5.0, 4.0, 4.5], patience=2)
    steps(made, 4)
    saves = Checkpoints(tmp_path)
    saves.save(4, {"step": 4, **made.state_dict()})
    again = validation([4.6, 4.7], patience=2)
    again.load_state_dict(saves.load_latest() or {})
    assert again.at(4) == {} and not again.ended
    assert again.at(6) and again.ended and again.best_step == 2
    assert Validation().state_dict() == {}


def test_the_best_checkpoint_stays_beside_the_newest_two(tmp_path: Path) -> None:
    made = validation([2.0, 1.0, 3.0, 4.0, 5.0], keep="best")
    saves = Checkpoints(tmp_path, spared=lambda: made.kept_step)
    for step in range(0, 9, 2):
        made.at(step)
        saves.save(step, {"step": step, "w": torch.tensor([float(step)])})
    assert [path.name for path in states(tmp_path)] == [
        "step-00000002.pt", "step-00000006.pt", "step-00000008.pt",
    ]  # fmt: skip
    assert [path.name for path in older_states(tmp_path, 2)] == ["step-00000002.pt"]


def test_a_picture_with_intervals_once_there_are_two() -> None:
    made = validation([2.0, 1.0], "accuracy")
    made.at(0)
    assert made.outputs()["panels"] == []
    made.at(2)
    (panel,) = made.outputs()["panels"]
    assert panel["x"] == [0.0, 2.0] and panel["share"] and panel["note"] == "best at step 0"
    assert [value["ci95"] for value in panel["values"]] == [[1.8, 2.2], [0.8, 1.2]]


def test_a_measure_without_a_value_is_null_in_the_manifest() -> None:
    made = Validation(ValidationConfig(every=1), lambda: {"loss": UNKNOWN})
    made.at(0)
    assert made.history[0]["loss"]["value"] is None and made.best_step is None and not made.ended
