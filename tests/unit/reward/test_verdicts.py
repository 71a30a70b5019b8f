"""Verdicts, composition, refusal, batches, and the entrance itself."""

import subprocess
import sys
import time

import pytest

from reward import CheckItem, Component, Verdict, check, check_all, compose
from workbench.errors import UserError

HANG = r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}"


def test_value_is_none_exactly_when_undecided() -> None:
    for value, status in ((None, "ok"), (0.0, "timeout"), (1.0, "error"), (0.5, "wrong_format")):
        with pytest.raises(ValueError, match=r"value|verdict"):
            Verdict(value, status)  # type: ignore[arg-type]


def test_importing_reward_is_cheap() -> None:
    code = (
        "import sys, reward; "
        "heavy = {'torch', 'sympy', 'numpy', 'nltk', 'bfcl_eval', 'ray', 'transformers', 'lm_eval'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_kinds_and_options_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'math'"):
        check("maths", "1", "1")
    with pytest.raises(UserError, match="did you mean 'require_boxed'"):
        check("math", "1", "1", require_box=True)
    with pytest.raises(UserError, match="type NoneType"):
        check("math", None, "1")  # type: ignore[arg-type]


def test_a_broken_checker_is_an_error_not_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.math_fast.read_gold", lambda gold: 1 / 0)
    verdict = check("math", "1", "1")
    assert (verdict.value, verdict.status) == (None, "error")
    assert "ZeroDivisionError" in verdict.parts["reason"]


def test_the_reason_of_a_broken_check_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's own message about missing data is a frame of stars over ten lines."""

    def framed(gold: str) -> None:
        raise LookupError("\n\n*****\n  Resource 'tagger' not\n  found.\n*****\n")

    monkeypatch.setattr("reward.math_fast.read_gold", framed)
    assert check("math", "1", "1").parts["reason"] == "LookupError: Resource 'tagger' not found."


# --- composition ---


def test_weighted_mean_and_record() -> None:
    """(2*1 + 1*0.5 + 1*0) / 4 = 0.625 [derived]"""
    whole = compose(
        [
            Component("a", 2.0, Verdict(1.0, "ok", {"k": 1})),
            Component("b", 1.0, Verdict(0.5, "ok")),
            Component("c", 1.0, Verdict(0.0, "wrong_format")),
        ]
    )
    assert (whole.value, whole.status) == (0.625, "ok")
    assert whole.parts["components"]["a"] == {
        "value": 1.0,
        "status": "ok",
        "weight": 2.0,
        "parts": {"k": 1},
    }


def test_one_undecided_part_makes_the_whole_undecided() -> None:
    good = Component("a", 1.0, Verdict(1.0, "ok"))
    late = Component("b", 0.0, Verdict(None, "timeout"))
    dead = Component("c", 1.0, Verdict(None, "error"))
    assert compose([good, late]).value is None
    assert compose([good, late]).status == "timeout"
    assert compose([good, late, dead]).status == "error"
    bad = Component("d", 1.0, Verdict(0.0, "wrong_format"))
    assert compose([bad]).status == "wrong_format"


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0], []])
def test_weights_are_validated(weights: list[float]) -> None:
    parts = [Component(str(i), w, Verdict(1.0, "ok")) for i, w in enumerate(weights)]
    with pytest.raises(UserError, match="weight"):
        compose(parts)


def test_composite_kind_sees_thinking_stripped_and_tool_calls() -> None:
    text = '<think>A, B</think>Yes<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL>'
    reference = [
        {"kind": "tools", "reference": [{"name": "f", "arguments": {}}], "weight": 3},
        {
            "kind": "instructions",
            "reference": [{"instruction_id": "punctuation:no_comma"}],
            "name": "format",
        },
        {"kind": "math", "reference": "5"},
    ]
    verdict = check("composite", text, reference)
    assert verdict.value == 0.8
    assert verdict.parts["components"]["math"]["status"] == "wrong_format"
    with pytest.raises(UserError, match="did you mean 'weight'"):
        check("composite", text, [{"kind": "math", "reference": "5", "weigth": 2}])


# --- refusal ---


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I can’t do this.", True),
        ("I cannot assist.", True),
        ("Sure! Here is how.", False),
        ("<think>I can't do this</think>Sure, here it is.", False),
        ("Certainly. " + "x" * 400 + " I can't", False),
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert check("refusal", text, refused).value == 1.0
    assert check("refusal", text, not refused).value == 0.0


def test_refusal_options_and_mistakes() -> None:
    assert check("refusal", "Nope.", True, phrases=["nope"]).value == 1.0
    assert check("refusal", "", True).status == "wrong_format"
    with pytest.raises(UserError, match="true or false"):
        check("refusal", "x", "yes")


# --- batches ---


def test_check_all_bounds_the_batch() -> None:
    items = [CheckItem("math", "1", "1")] + [
        CheckItem("math", HANG, "3", {"timeout_s": 60.0}) for _ in range(6)
    ]
    check("math", "$x$", "x")
    started = time.monotonic()
    verdicts = check_all(items, workers=2, timeout_s=1.0)
    assert time.monotonic() - started < 30  # six hangs of 60 s on two workers would take 180 s
    assert verdicts[0].value == 1.0
    assert {v.status for v in verdicts[1:]} == {"timeout"}


def test_check_all_raises_the_callers_mistakes() -> None:
    with pytest.raises(UserError, match="unknown kind"):
        check_all([("maths", "1", "1")])
    with pytest.raises(UserError, match="at least one worker"):
        check_all([], workers=0)
