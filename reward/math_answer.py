"""Is the reply's mathematical answer equal to the reference?"""

import re
from typing import Any

from reward import math_fast
from reward.math_number import stated_number
from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, failed, timed_out, wrong_format
from reward.workers import shared_pool
from workbench.errors import UserError

_DELIMITED = re.compile(r"\\boxed|\$|\\\(|\\\[")


def check_math(
    reply: CheckedReply,
    reference: Any,
    *,
    timeout_s: float = 5.0,
    require_boxed: bool = False,
    number: bool = False,
) -> Verdict:
    """1.0 where math-verify finds the answer equal to the reference.

    reference: a number or LaTeX ("42", "\\\\frac{1}{2}", "[2,5)"); boxed, dollars or bare.
    The answer is \\boxed{...} where there is one, else what math-verify finds (at last, the last
    number of the text); require_boxed makes a reply without a box wrong_format.
    number: the reply must state the number itself, last; math-verify would work out "1 + 8" for it.
    timeout_s: CPU time; a check that takes longer is stopped, status "timeout".
    """
    gold = _gold(reference)
    if number and math_fast.read_gold(gold) is None:
        raise UserError(f"the reference {gold[:80]!r} is no plain number; leave out `number`")
    answer = reply.answer
    if not answer.strip():
        return wrong_format("empty answer")
    if require_boxed and "\\boxed" not in answer:
        return wrong_format("no \\boxed{}")
    if number:
        return _stated(gold, answer)
    verdict = _fast(gold, answer)
    return verdict if verdict is not None else _verified(gold, answer, timeout_s)


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
    return decided(found["correct"], extracted=found["extracted"], path="worker")
