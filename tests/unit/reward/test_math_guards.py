"""The math checker against math-verify: where the two part, by hand, and that they part nowhere else."""

import itertools
import time

import pytest

from reward import check
from reward.math_text import plain_math
from reward.math_worker import judge

# Wrong, and right for math-verify: (gold, reply).
FALSELY_RIGHT = [
    # Small numbers agree to six decimals whatever they are.
    (r"1.6 \times 10^{-19}", r"\boxed{9.1 \times 10^{-31}}"),
    (r"1.6 \times 10^{-19}", r"\boxed{1.6 \times 10^{-18}}"),
    (r"1.6 \times 10^{-19}", r"\boxed{-1.6 \times 10^{-19}}"),
    ("0.0000001", r"\boxed{0.0000002}"),
    (r"\{0.0000001, 2\}", r"\boxed{\{0.0000002, 2\}}"),
    ("(0.0000001,1)", r"\boxed{(0.0000002,1)}"),
    # A number read out of a longer one.
    ("1.6", "The answer is 1.6e-19"),
    ("10", "The answer is 1.6 × 10^-19"),
    ("1.6", "The answer is 1.6 x 10^-19"),
    ("2", "The answer is 2√3."),
    ("3", "The answer is 3π."),
    ("2", "The answer is 2x."),
    ("1", "The answer is 1½"),
    ("1", r"\boxed{1 1/2}"),
    ("201", r"\boxed{1 200}"),
    ("201", r"\boxed{1\,200}"),
    ("5", "The answer is - 5"),
    ("5", "The answer is minus 5"),
    # A box that was being written, or holds nothing.
    ("9", r"\boxed{9}. Hence \boxed{10"),
    ("5", r"The answer is 5. \boxed{}"),
    # Hedges in plain text.
    ("3", "The answer is 3 or 4"),
    ("3", "The answer is 3, or 4."),
    ("4", "It is 3 or maybe 4."),
    # Words as products of letters.
    ("east", r"\boxed{seat}"),
    ("True", r"\boxed{ture}"),
    ("no", r"\boxed{on}"),
    # Other units, other brackets, false equations.
    ("10 cm", r"\boxed{10 \text{ m}}"),
    (r"10\text{ cm}", r"\boxed{10\text{ mm}}"),
    ("5 kg", r"\boxed{5\text{ g}}"),
    ("(1,2)", r"\boxed{\{1,2\}}"),
    (r"\{1,2\}", r"\boxed{(1,2)}"),
    ("5", r"\boxed{4=5}"),
    ("5", r"\boxed{0=5}"),
]  # fmt: skip
# Right, and wrong for math-verify.
FALSELY_WRONG = [
    ("-7", "The answer is \u22127."),
    ("-5", "The answer is –5."),
    ("-5", "The answer is - 5"),
    ("-5", "The answer is negative 5."),
    ("5", "The answer is ５."),
    ("5", r"\boxed{５}"),
    ("12", "الجواب: ١٢"),
    ("7", "答案是：7。"),
    ("1/2", "½"),
    ("0.5", r"\boxed{½}"),
    ("1.5", "The answer is 1½"),
    ("1.5", r"\boxed{1 1/2}"),
    ("1/2", r"\boxed{1⁄2}"),
    ("1200", r"\boxed{1 200}"),
    ("1200", r"\boxed{1\,200}"),
    ("1200", "\\boxed{1\u202f200}"),
    ("1200", "The answer is 1\u2009200."),
    ("1200", "The answer is 1'200."),
    ("1234567", r"\boxed{12,34,567}"),
    ("1200.5", r"\boxed{1.200,50}"),
    ("5", r"\boxed{€5}"),
    ("5", r"\boxed{£5.00}"),
    ("90", r"\boxed{90°}"),
    (r"90^\circ", r"\boxed{90°}"),
    ("90°", r"\boxed{90}"),
    (r"1.6 \times 10^{-19}", r"\boxed{1.6e-19}"),
    ("3e8", r"\boxed{3\times10^8}"),
    (r"3\times10^8", "The answer is 3.0e8"),
    (r"6.02\times10^{23}", "The answer is 6.02 × 10²³."),
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}"),
    (r"\sqrt{2}", r"\boxed{√2}"),
    (r"2\sqrt{3}", "The answer is 2√3."),
    (r"3\pi", "The answer is 3π."),
    ("x²", r"\boxed{x^2}"),
    ("8", r"\boxed{2³}"),
    ("∞", r"\boxed{\infty}"),
    ("12", r"\boxed{3·4}"),
]  # fmt: skip
# Both say the same: (gold, reply, right?).
SAME = [
    ("1200", "The answer is 1,200", True),
    ("1200", "The answer is 1.200", False),
    ("1.2", r"\boxed{1.200}", True),
    ("1200", r"\boxed{1{,}200}", True),
    ("1200", "The answer is 1 200.", True),
    ("7", "The answer is \u22127.", False),
    ("50", "50%", True),
    ("0.5", "50%", True),
    (r"50\%", r"\boxed{0.5}", True),
    ("5", "It costs €5.", True),
    ("5", "The answer is $5", True),
    ("(1,2)", r"\boxed{[1,2]}", False),
    ("[1,2]", r"\boxed{(1,2)}", False),
    ("(1,2]", r"\boxed{(1,2)}", False),
    ("(1,2)", r"\boxed{1,2}", True),
    ("(1,2)", r"\boxed{2,1}", False),
    ("(1,2)", r"\boxed{(1,2,3)}", False),
    ("1,2", r"\boxed{2,1}", True),
    (r"\{1,2\}", r"\boxed{2,1}", True),
    (r"\{1,2\}", r"\boxed{[1,2]}", False),
    ("5", r"\boxed{x=5}", True),
    ("x=5", r"\boxed{5}", True),
    ("x=5", r"\boxed{y=5}", False),
    ("x=5", r"\boxed{x=6}", False),
    ("5", r"\boxed{2+3=5}", True),
    ("x=1 or x=2", r"\boxed{1,2}", True),
    ("x>5", r"\boxed{x<5}", False),
    ("5", r"\boxed{5 \text{ apples}}", True),
    ("5", r"\boxed{5\text{ or }6}", False),
    ("10 cm", r"\boxed{10}", True),
    ("10", r"\boxed{10 \text{ m}}", True),
    ("10 cm", r"\boxed{10\text{ centimeters}}", True),
    (r"\pm 2", r"\boxed{\pm 2}", True),
    (r"\pm 2", r"\boxed{2}", False),
    ("2", r"\boxed{±2}", False),
    (r"\pm 2", r"\boxed{-2, 2}", True),
    (r"3\pm\sqrt{2}", r"\boxed{3+\sqrt{2}}", False),
    ("3", r"\boxed{2} \boxed{3}", False),
    ("3", "$3$ or $4$", False),
    ("3", "The answer is 3 or 4. Only 3 is positive, so the answer is 3.", True),
    ("10^{-7}", r"\boxed{10^{-8}}", False),
    (r"\pi", r"\boxed{3.14159265}", True),
    (r"\frac{1}{700}", r"\boxed{0.001429}", True),
    ("2^{100}", r"\boxed{1267650600228229401496703205376}", True),
    ("1267650600228229401496703205376", r"\boxed{1267650600228229401496703205377}", False),
    (r"\infty", r"\boxed{-\infty}", False),
    (r"\text{even}", r"\boxed{\text{odd}}", False),
    ("11:30", r"\boxed{11:40}", False),
    ("abc", r"\boxed{bca}", True),
    (r"\frac{3}{2}", r"\boxed{1\frac{1}{2}}", True),
    (r"6.02 \times 10^{23}", r"\boxed{6.03\times 10^{23}}", False),
    ("3", "Parts 1, 2 and 3 are done. The answer is 3", True),
]  # fmt: skip
GOLDS = [
    "3", "-3", "0.5", r"\frac{1}{2}", "1200", "1,200", r"50\%", "(1,2)", "[1,2]", r"\{1,2\}", "1,2", "x=3",
    r"\pm 3", r"2\sqrt{3}", "x^2+1", r"\pi", "10^{-7}", r"3\text{ cm}", r"\text{east}", "1+2i",
]  # fmt: skip
REPLIES = [
    "3", "-3", "3.0", r"\frac{6}{2}", r"\frac12", "0.50", "1200", "1,200", r"50\%", "(1,2)", "(2,1)", "[1,2]",
    "1,2", "2,1", "x=3", r"\pm 3", "-3,3", r"\sqrt{12}", "1+x^2", r"\pi", "10^{-7}", r"3\text{ cm}",
    r"\text{west}", "2i+1", "x",
]  # fmt: skip


def _math_verify(gold: str, reply: str) -> bool:
    from math_verify import parse, verify

    wanted = parse(gold if "\\boxed" in gold else f"\\boxed{{{gold}}}", parsing_timeout=None)
    return bool(verify(wanted, parse(reply, parsing_timeout=None), timeout_seconds=None))


@pytest.mark.parametrize(("gold", "reply"), FALSELY_RIGHT)
def test_a_guard_says_no_where_math_verify_says_yes(gold: str, reply: str) -> None:
    assert _math_verify(gold, reply), "not needed any more"
    verdict = check("math", reply, gold)
    assert verdict.value == 0.0
    assert verdict.status in ("ok", "wrong_format")


@pytest.mark.parametrize(("gold", "reply"), FALSELY_WRONG)
def test_a_number_is_read_however_it_is_written(gold: str, reply: str) -> None:
    assert not _math_verify(gold, reply), "not needed any more"
    verdict = check("math", reply, gold)
    assert (verdict.value, verdict.status) == (1.0, "ok")


@pytest.mark.parametrize(("gold", "reply", "right"), SAME)
def test_elsewhere_math_verify_decides(gold: str, reply: str, right: bool) -> None:
    assert _math_verify(gold, reply) is right
    assert check("math", reply, gold).value == float(right)


def test_the_two_part_nowhere_among_500_plain_pairs() -> None:
    parted = []
    for gold, reply in itertools.product(GOLDS, REPLIES):
        ours = check("math", f"So \\boxed{{{reply}}}.", gold).value
        if ours != float(_math_verify(gold, f"So \\boxed{{{reply}}}.")):
            parted.append((gold, reply, ours))
    assert len(GOLDS) * len(REPLIES) == 500
    # Both are guards: a set is not a point, and no interval.
    assert parted == [(r"\{1,2\}", "(1,2)", 0.0), (r"\{1,2\}", "(2,1)", 0.0)]


def test_a_guard_says_its_name() -> None:
    small = check("math", r"\boxed{9.1 \times 10^{-31}}", r"1.6 \times 10^{-19}")
    assert small.parts["guard"] == "equal in math-verify's six decimals only"
    found = judge(r"\boxed{1+x}", r"\boxed{x+1}")
    assert (found["correct"], found["guard"]) == (True, "")


@pytest.mark.parametrize(
    "text",
    [
        "x_1 + x_2", r"\frac{1}{2}", "f(x) = 3x^2 - 5", "1,200 and 3,400", "pages 5–7", "3 - 5", "2^10",
        "0x1e5", "a1e3", "5, 10, 15", r"\sqrt{2}", r"3\cdot 10^n", "1.200", "version 1.2.3", "He said: no.",
        "x^2 \\times 10^3", "12/25/2024",
    ],
)  # fmt: skip
def test_other_text_stays_as_it_is(text: str) -> None:
    assert plain_math(text) == text


@pytest.mark.parametrize(
    "unit", [" ", "1", "1 ", "-", "1,", "½", "√(", "\\boxed{", "1.6e", "2²", "３"]
)
def test_a_long_reply_costs_no_more_than_its_length(unit: str) -> None:
    started = time.process_time()
    plain_math(unit * 20_000)
    plain_math("\\boxed{" + unit * 20_000)
    assert time.process_time() - started < 3
