"""A reply must state its number: nothing is worked out for it."""

from fractions import Fraction

import pytest

from reward import check
from reward.math_number import stated_number


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("9", 9),
        ("1 + 8 = 9", 9),
        ("The answer is 9.", 9),
        ("1 + 8 = **9**", 9),
        ("\\boxed{9}", 9),
        ("$9$", 9),
        ("5 - 9 = -4", -4),
        ("It is \u22124.", -4),
        ("1,200", 1200),
        ("-1.5", Fraction(-3, 2)),
        ("(-4)", -4),
        ("1 + 8", None),  # what GRPO learnt to say
        ("1 + 8 =", None),
        ("10 - 9 is 10 - 9", None),
        ("5-9", None),
        ("(5)-9", None),
        ("9 * 6", None),
        ("9 ×", None),
        ("2 * (3)", None),
        ("nine", None),
        ("", None),
        ("9" * 5000, None),
        ("1" + ",000" * 2000, None),
    ],
)
def test_the_last_number_counts_unless_it_is_part_of_an_expression(
    answer: str, value: Fraction | None
) -> None:
    assert stated_number(answer) == value


def test_an_expression_that_equals_the_reference_is_right_only_where_it_may_be() -> None:
    assert check("math", "1 + 8", "9").value == 1.0  # math-verify's reading
    strict = check("math", "1 + 8", "9", number=True)
    assert (strict.value, strict.status) == (0.0, "wrong_format")
    assert check("math", "1 + 8 = 9", "9", number=True).value == 1.0
    assert check("math", "1 + 8 = 10", "9", number=True).value == 0.0


def test_a_reply_that_runs_on_in_digits_is_wrong_and_no_broken_check() -> None:
    found = check("math", "9" * 5000, "9", number=True)
    assert (found.value, found.status) == (0.0, "wrong_format")
