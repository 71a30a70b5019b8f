"""One model against another at each budget: numbers derived by hand."""

import pytest

from budget.curves import contrast
from workbench.errors import UserError
from workbench.records import Sample, Tokens, to_json


def row(question: str, answer: int, value: float | None = 1.0, formed: bool = True) -> Sample:
    return Sample(question, value=value, well_formed=formed, tokens=Tokens(4, answer))


def test_a_contrast_by_hand() -> None:
    before = {
        None: [row("a", 10), row("b", 10), row("c", 10)],
        8: [row("a", 40, formed=False), row("a", 20), row("b", 30), row("c", 9, None)],
    }
    after = {
        None: [row("a", 12), row("b", 10), row("d", 10)],
        8: [row("a", 13), row("b", 12, 0.0), row("d", 10)],
        16: [row("a", 13)],
    }
    small, free = contrast(before, after)
    assert (small.budget, free.budget) == (8, None)
    assert (small.questions, free.questions) == (2, 2)  # c failed, d is in one model only
    assert small.answer.value == -17.5  # [derived] a: 13 - 30, b: 12 - 30
    assert small.well_formed.value == 0.25  # [derived] a: 1 - 1/2, b: 0
    assert small.accuracy.value == -0.5
    # [derived] a: (13 - 12) - (30 - 10) = -19; b: (12 - 10) - (30 - 10) = -18
    assert small.growth.value == -18.5
    # [derived] mean -18.5, standard deviation 0.7071, over sqrt(2): stderr 0.5
    assert small.growth.stderr == pytest.approx(0.5)
    assert small.growth.low == pytest.approx(-18.5 - 1.959964 * 0.5)
    assert (free.growth.value, free.answer.value) == (0.0, 1.0)
    assert to_json(free)["growth"] == {"value": 0.0, "stderr": 0.0, "ci95": [0.0, 0.0], "n": 2}


def test_what_cannot_be_contrasted_is_said() -> None:
    with pytest.raises(UserError, match="share no budget"):
        contrast({8: [row("a", 1)]}, {16: [row("a", 1)]})
    with pytest.raises(UserError, match="at budget 8 the models share no question"):
        contrast({8: [row("a", 1)]}, {8: [row("b", 1)]})
