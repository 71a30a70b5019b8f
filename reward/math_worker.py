"""math-verify, called from the main thread of a checking process."""

from functools import lru_cache
from typing import Any

from math_verify import parse, verify


def judge(gold: str, answer: str) -> dict[str, Any]:
    """{"gold_parsed", "extracted": str | None, "correct"}; extracted is None where nothing was.

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
    correct = verify(list(gold_parsed), predicted, timeout_seconds=None)
    return {"gold_parsed": True, "extracted": text[:200], "correct": bool(correct)}


@lru_cache(maxsize=4096)  # a GRPO group asks about one gold many times
def _parse_gold(gold: str) -> tuple[Any, ...]:
    return tuple(parse(gold, parsing_timeout=None))  # type: ignore[arg-type]
