"""Is the reply's mathematical answer equal to the reference?"""

import re
from typing import Any

from reward import math_fast
from reward.boxes import last_box
from reward.math_number import stated_number
from reward.math_text import plain_math
from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, failed, timed_out, wrong_format
from reward.workers import shared_pool
from workbench.errors import UserError

_DELIMITED = re.compile(r"\\boxed|\$|\\\(|\\\[")
_NOT_CLOSED = "the last box is not closed"
_TAIL = 400
_ONE = r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_HEDGE = re.compile(
    rf"(?<![\w.])(?P<a>{_ONE})\W{{0,3}}\(?(?:or|oder|ou|o|或|または|또는)(?![A-Za-z])\s?"
    rf"(?:maybe |perhaps |possibly |even )?(?P<b>{_ONE})(?!\d)\D{{0,200}}$",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\bor\b|[,;{]|\\pm|±")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s?\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z][A-Za-z' -]*")
# Up to this many letters may be a product of variables ("abc").
_LONGEST_PRODUCT = 3
_SHORT = ("yes", "no", "odd", "one", "two", "six", "ten")


def check_math(
    reply: CheckedReply,
    reference: Any,
    *,
    timeout_s: float = 5.0,
    require_boxed: bool = False,
    number: bool = False,
) -> Verdict:
    """1.0 where math-verify finds the answer equal to the reference, and no guard of ours says no.

    reference: a number or LaTeX ("42", "\\\\frac{1}{2}", "[2,5)"); boxed, dollars or bare.
    The answer is \\boxed{...} where there is one, else what math-verify finds (at last, the last
    number of the text); require_boxed makes a reply without a box wrong_format. A last box that is
    empty or not closed is wrong_format, and so are two numbers for one ("3 or 4") in plain text.
    Numbers may be written in any way that `math_text` knows. docs/rewards.md lists the guards.
    number: the reply must state the number itself, last; math-verify would work out "1 + 8" for it.
    timeout_s: CPU time; a check that takes longer is stopped, status "timeout".
    """
    gold = _gold(reference)
    if number and math_fast.read_gold(gold) is None:
        raise UserError(f"the reference {gold[:80]!r} is not a plain number; leave out `number`")
    answer = reply.answer
    if not answer.strip():
        return wrong_format("empty answer")
    if require_boxed and "\\boxed" not in answer:
        return wrong_format("no \\boxed{}")
    if number:
        return _stated(gold, answer)
    gold, answer = plain_math(gold, formula=True), plain_math(answer)
    for decide in (_unfinished, _hedged, _word, _fast):
        verdict = decide(gold, answer)
        if verdict is not None:
            return verdict
    return _verified(gold, answer, timeout_s)


def _gold(reference: Any) -> str:
    if isinstance(reference, bool) or not isinstance(reference, (str, int, float)):
        raise UserError(f"the reference of a math check is text or a number, got {reference!r}")
    gold = str(reference).strip()
    if not gold:
        raise UserError("the reference of a math check is empty")
    return gold


def _stated(gold: str, answer: str) -> Verdict:
    wanted = math_fast.read_gold(gold)
    value = stated_number(answer)
    if value is None:
        return wrong_format("no number stated at the end")
    return decided(value == wanted, extracted=str(value), path="number")


def _unfinished(gold: str, answer: str) -> Verdict | None:
    """A box that was being written when the reply was cut is not an answer, nor is one before it."""
    box = last_box(answer)
    if box is None or (box.content or "").strip():
        return None
    return wrong_format("the last box is empty" if box.content is not None else _NOT_CLOSED)


def _hedged(gold: str, answer: str) -> Verdict | None:
    """ "3 or 4" at the end of plain text names two numbers; math-verify takes one of them."""
    if _DELIMITED.search(answer) or _SEVERAL.search(gold):
        return None
    found = _HEDGE.search(answer[-_TAIL:])
    if not found or math_fast.read_gold(found["a"]) == math_fast.read_gold(found["b"]):
        return None
    return wrong_format("several numbers are given", extracted=found[0].strip()[:200])


def _word(gold: str, answer: str) -> Verdict | None:
    """Words are compared as words: math-verify takes "seat" and "east" for the same product."""
    box = last_box(answer)
    wanted = _words(gold)
    found = _words(box.content or "") if box is not None else ""
    if not found or not (len(wanted) > _LONGEST_PRODUCT or wanted in _SHORT):
        return None
    same = wanted == found or (_is_product(gold, wanted) and sorted(wanted) == sorted(found))
    return decided(same, extracted=found, path="word")


def _is_product(gold: str, letters: str) -> bool:
    """ "abcd", "kmnp": letters in a row, or without a vowel, each once and not in \\text, are variables."""
    if letters in _SHORT or _TEXT.search(gold) or not letters.isalpha():
        return False
    if len(set(letters)) < len(letters):
        return False
    in_a_row = ord(letters[-1]) - ord(letters[0]) == len(letters) - 1 and list(letters) == sorted(
        letters
    )
    return in_a_row or not set(letters) & set("aeiouy")


def _words(text: str) -> str:
    """Nothing but letters, in lower case, without LaTeX around them; else ""."""
    box = last_box(text)
    plain = _TEXT.sub(r"\1", (box.content or "") if box else text).strip(" $.")
    return " ".join(plain.lower().split()) if _WORD.fullmatch(plain) else ""


def _fast(gold: str, answer: str) -> Verdict | None:
    gold_value = math_fast.read_gold(gold)
    read = math_fast.read_answer(answer) if gold_value is not None else None
    if gold_value is None or read is None:
        return None
    value, text = read
    equal = math_fast.same(gold_value, value)
    return None if equal is None else decided(equal, extracted=text, path="fast")


def _verified(gold: str, answer: str, timeout_s: float) -> Verdict:
    # math-verify reads LaTeX only inside delimiters; a bare reference is put in a box.
    delimited = gold if _DELIMITED.search(gold) else f"\\boxed{{{gold}}}"
    result = shared_pool().call(
        "reward.math_worker:judge", [delimited, answer], timeout_s=timeout_s
    )
    if result.status == "timeout":
        return timed_out(result.reason, path="worker")
    if result.status == "error":
        return failed(result.reason, path="worker")
    found = result.value
    if not found["gold_parsed"]:
        reason = f"math-verify cannot read the reference {gold[:200]!r}"
        return failed(reason, path="worker", bad_reference=True)
    if found["extracted"] is None:
        return wrong_format("no mathematical answer found", path="worker")
    guard = {"guard": found["guard"]} if found.get("guard") else {}
    return decided(found["correct"], extracted=found["extracted"], path="worker", **guard)
