"""A math check whose worker gives nothing is undecided; what the worker says decides."""

from typing import Any

import pytest

from reward import check, math_answer
from reward.line import CallResult
from reward.math_answer import check_math
from reward.reply import CheckedReply

# Not a plain number, so that the worker is asked.
GOLD, REPLY = r"\frac{x}{2}", r"\boxed{\frac{x}{2}}"
FOUND = {"gold_parsed": True, "extracted": "x", "guard": ""}


@pytest.mark.parametrize(
    ("result", "value", "status"),
    [
        (
            CallResult("error", reason="the checking process died (end of file; exit -9)"),
            None,
            "error",
        ),
        (CallResult("timeout", reason="stopped after 5 s"), None, "timeout"),
        (CallResult("ok", {"gold_parsed": False}), None, "error"),
        (CallResult("ok", {"gold_parsed": True, "extracted": None}), 0.0, "wrong_format"),
        (CallResult("ok", FOUND | {"correct": False}), 0.0, "ok"),
        (CallResult("ok", FOUND | {"correct": True}), 1.0, "ok"),
    ],
)
def test_only_what_was_decided_has_a_value(
    monkeypatch: pytest.MonkeyPatch, result: CallResult, value: float | None, status: str
) -> None:
    class Pool:
        def call(self, target: str, args: list[Any], *, timeout_s: float) -> CallResult:
            return result

    monkeypatch.setattr(math_answer, "shared_pool", Pool)
    verdict = check("math", REPLY, GOLD)
    assert (verdict.value, verdict.status) == (value, status)


@pytest.mark.parametrize(
    ("gold", "boxed", "value"),
    [("abcd", "dcba", 1.0), ("wxyz", "zyxw", 1.0), ("kmnp", "pnmk", 1.0), ("abcd", "abce", 0.0),
     ("east", "seat", 0.0), (r"\text{abcd}", "dcba", 0.0), ("rust", "ruts", 0.0)],
)  # fmt: skip
def test_a_product_of_variables_has_any_order_and_a_word_has_one(
    gold: str, boxed: str, value: float
) -> None:
    reply = CheckedReply(answer=rf"\boxed{{{boxed}}}", tool_calls=None)
    assert check_math(reply, gold).value == value
