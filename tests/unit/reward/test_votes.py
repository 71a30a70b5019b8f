"""Votes are of equal answers, whatever their spelling."""

import time
from typing import Any

import pytest

from evals.statistics import majority_value, sampled_metrics
from reward import check
from reward.votes import majority
from workbench.records import Sample


def _rows(kind: str, replies: list[str], reference: str, **options: Any) -> list[Sample]:
    found = [check(kind, reply, reference, **options) for reply in replies]
    return [
        Sample("q", sample=number, value=one.value, status=one.status, why=one.parts)
        for number, one in enumerate(found)
    ]


def _boxed(*answers: str) -> list[str]:
    return [f"\\boxed{{{answer}}}" for answer in answers]


@pytest.mark.parametrize(
    ("answers", "reference", "value"),
    [
        (["1,200", "1200", "1200.0", "7", "7"], "1200", 1.0),
        (["1,200", "1200", "1200.0", "7", "7"], "7", 0.0),
        (["7", "7", "1,200", "1200", "1200.0"], "7", 0.0),
        ([r"\frac{1}{2}", "0.5", "1/2", "3", "3"], "3", 0.0),
        ([r"\frac{1}{2}", "0.5", "3", "3"], "3", 0.0),  # a tie: the first
        (["3", r"\frac{1}{2}", "3", "0.5"], "3", 1.0),
        (["x+1", "1+x", "(x+1)", "2", "2"], "2", 0.0),
        ([r"\sqrt{12}", r"2\sqrt{3}", "5", "4"], "5", 0.0),
        (["1,2", r"\{2,1\}", "3", "4"], "3", 0.0),
        ([r"\frac{1}{3}", "0.333333", "9", "8"], "9", 0.0),
        (["1.6e-19", "9.1e-31", "5", "5"], "5", 1.0),  # not equal, though both round to 0
        (["(1,2)", "(2,1)", "5", "5"], "5", 1.0),
        (["x=4", "4", "5", "6"], "5", 0.0),
    ],
)
def test_equal_answers_are_one_vote(answers: list[str], reference: str, value: float) -> None:
    assert majority_value(_rows("math", _boxed(*answers), reference)) == value


def test_what_was_not_read_has_no_vote() -> None:
    unread = ["\\boxed{9", "I cannot say.", "The answer is 3 or 4", "\\boxed{}"]
    rows = _rows("math", [*unread, "\\boxed{5}"], "5")
    assert [row.status for row in rows[:4]] == ["wrong_format"] * 4
    assert majority_value(rows) == 1.0
    assert majority_value(rows[:4]) == 0.0
    failed = Sample("q", value=None, status="timeout", why={"extracted": "7"})
    assert majority_value([failed, failed, *rows]) == 1.0


def test_letters_vote_and_a_tie_goes_to_the_lowest_sample() -> None:
    rows = _rows(
        "choice", ["The answer is B.", "Answer: (b)", "\\boxed{C}", "**C**", "Answer: A or B"], "C"
    )
    assert majority_value(rows) == 0.0
    assert majority_value(rows[::-1]) == 0.0  # whatever their order in the file
    winner = majority(rows)
    assert winner is not None
    assert winner.sample == 0


def test_maj_k_of_a_benchmark() -> None:
    rows = _rows("math", _boxed("1,200", "1200", "7", "7", "1200.0"), "1200")
    assert sampled_metrics(rows, 5)["maj@5"].value == 1.0


def test_a_vote_ends_though_an_answer_hangs() -> None:
    hang = [rf"\dfrac{{5^{{(5^{{(5^{{(5^5)}})}}-{n})}}-5}}{{16}}" for n in (4, 5)]
    rows = [_by_worker(n, text) for n, text in enumerate([*hang, "x+1", "1+x"])]
    started = time.monotonic()
    winner = majority(rows)
    assert winner is not None
    assert winner.why["extracted"] == "x+1"
    assert time.monotonic() - started < 60
    many = [_by_worker(n, f"x+{n}y") for n in range(64)]
    assert majority(many) is many[0]


def _by_worker(number: int, text: str) -> Sample:
    why = {"extracted": text, "path": "worker"}
    return Sample("q", sample=number, value=0.0, status="ok", why=why)
