"""Which letter a reply chose, against readings by hand."""

import pytest

from reward import check
from reward.choice import extract_choice
from workbench.errors import UserError

READ = {
    "\\boxed{B}": "B",
    "\\boxed{\\text{B}}": "B",
    "\\boxed{(B)}": "B",
    "\\boxed{B. Paris}": "B",
    "\\boxed{b}": "B",
    "\\boxed{A} no, \\boxed{B}": "B",
    "Answer: A, but wait. $\\boxed{B}$": "B",
    "Answer: B": "B",
    "answer: b": "B",
    "**Answer:** B": "B",
    "**Answer: B**": "B",
    "Answer: (B) Paris": "B",
    "ANSWER: B.": "B",
    "The answer is B": "B",
    "The answer is B because A is too small.": "B",
    "The correct answer is option (b).": "B",
    "The answer is **B**.": "B",
    "the answer is: **(B)**": "B",
    "The final answer is $B$.": "B",
    "The best choice is B.": "B",
    "Answer: A\nNo, that is wrong.\nAnswer: B": "B",
    "The answer is not A. The answer is B": "B",
    "B": "B",
    "(B)": "B",
    "**B**": "B",
    "B.": "B",
    "B) Paris": "B",
    "Option B": "B",
    "It rains there.\n\nB": "B",
    "It is clearly (B), the capital.": "B",
    "I choose **B** here.": "B",
}
LISTED = [
    "A or B",
    "Answer: A, B, C, D",
    "Answer: A and B",
    "The answer is A or B",
    "The answer is (A) or (B)",
    "The answer is A/B",
    "A. Rome\nB. Paris\nC. Bonn\nD. Oslo",
    "(A) (B) (C) (D)",
    "**A** **B**",
    "\\boxed{A, B}",
    "\\boxed{A}\\boxed{A or B}",
    "\\boxed{AB}",
    "I think it is either (A) or (B).",
]
NOTHING = ["", "Paris", "The answer is a dog", "The answer is Berlin", "I like A lot of things"]


@pytest.mark.parametrize("text", READ)
def test_single_choices_are_read(text: str) -> None:
    assert extract_choice(text) == ("B" if READ[text] == "B" else READ[text], "")
    assert check("choice", f"<think>maybe (C)</think>\n{text}", "B").value == 1.0
    assert check("choice", text, "A").value == 0.0


@pytest.mark.parametrize("text", [*LISTED, *NOTHING])
def test_lists_and_no_choice_are_wrong_format(text: str) -> None:
    for gold in "ABCD":
        verdict = check("choice", text, gold)
        assert (verdict.value, verdict.status) == (0.0, "wrong_format")


def test_num_choices_bounds_letters_and_reference() -> None:
    assert check("choice", "Answer: E", "E", num_choices=5).value == 1.0
    assert check("choice", "Answer: E", "A").status == "wrong_format"
    with pytest.raises(UserError, match="set num_choices"):
        check("choice", "Answer: E", "E")
    with pytest.raises(UserError, match="2 to 26"):
        check("choice", "Answer: E", "E", num_choices=1)


def test_thinking_is_not_an_answer() -> None:
    assert check("choice", "<think>Answer: B", "B").status == "wrong_format"
    assert check("choice", "Answer: B", "B", thinking_opened=True).status == "wrong_format"
    assert check("choice", "so A</think>Answer: B", "B", thinking_opened=True).value == 1.0
