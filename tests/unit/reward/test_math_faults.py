"""A math check whose worker gives nothing is undecided; what the worker says decides."""

from typing import Any

import pytest

from reward import check, math_answer
from reward.workers import CallResult

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
