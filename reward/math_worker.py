"""math-verify, called from the main thread of a checking process."""

from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from reward.math_guards import refuted

_LONGEST_SHOWN = 500


def judge(gold: str, answer: str) -> dict[str, Any]:
    """{"gold_parsed", "extracted": str | None, "correct", "guard"}; extracted is None where nothing was.

    guard: which of ours says no where math-verify says yes; "" where none does.

    The library's own SIGALRM guard is off: the caller's kill is the deadline.
    """
    gold_parsed = _parse_gold(gold)
    if not gold_parsed:
        return {"gold_parsed": False, "extracted": None, "correct": False}
    predicted = parse(answer, parsing_timeout=None)  # type: ignore[arg-type]
    if not predicted:
        return {"gold_parsed": True, "extracted": None, "correct": False}
    # str() of a sympy expression can run for ever, so only the text form is reported.
    text = next((p for p in predicted if isinstance(p, str)), "")
    correct = bool(verify(list(gold_parsed), predicted, timeout_seconds=None))
    guard = refuted((gold, answer), gold_parsed, predicted) if correct else ""
    return {
        "gold_parsed": True,
        "extracted": text[:_LONGEST_SHOWN],
        "correct": correct and not guard,
        "guard": guard,
    }


@lru_cache(maxsize=4096)  # a GRPO group asks about one gold many times
def _parse_gold(gold: str) -> tuple[Any, ...]:
    return tuple(parse(gold, parsing_timeout=None))  # type: ignore[arg-type]
