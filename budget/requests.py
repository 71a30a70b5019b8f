"""A thinking budget as a request carries it: vLLM's `extra_args`, or `vllm_xargs` over HTTP.

    {"thinking_budget": 512, "thinking_grace": 100, "thinking_rule": "newline"}

Only `thinking_budget` is needed; without it the request thinks as long as it likes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from budget.control import RuleName
from workbench.errors import UserError

_KEYS = ("thinking_budget", "thinking_grace", "thinking_rule")
DEFAULT_GRACE = 500
"""How many tokens a newline is waited for [paper, section 3.4]."""


@dataclass(frozen=True)
class BudgetRequest:
    """budget and grace in tokens; rule as in `BudgetRule.for_tokenizer`."""

    budget: int
    grace: int = DEFAULT_GRACE
    rule: RuleName = "newline"

    def extra_args(self) -> dict[str, Any]:
        """The mapping for `SamplingParams(extra_args=...)` or a request's `vllm_xargs`."""
        return dict(zip(_KEYS, (self.budget, self.grace, self.rule), strict=True))

    @classmethod
    def read(cls, extra: Mapping[str, Any] | None) -> "BudgetRequest | None":
        """The budget of a request, or None where it has none.

        Raises: UserError on a value that is not a budget, or on a key that is almost one of ours.
        """
        extra = extra or {}
        unknown = [key for key in extra if key.startswith("thinking_") and key not in _KEYS]
        if unknown:
            raise UserError(f"unknown request argument {unknown[0]!r}; allowed: {', '.join(_KEYS)}")
        if extra.get("thinking_budget") is None:
            stray = [key for key in _KEYS[1:] if extra.get(key) is not None]
            if stray:
                raise UserError(f"{stray[0]} without thinking_budget; give the budget in tokens")
            return None
        rule: Any = extra.get("thinking_rule") or "newline"
        if rule not in get_args(RuleName):
            allowed = ", ".join(get_args(RuleName))
            raise UserError(f"thinking_rule {rule!r}; allowed: {allowed}")
        return cls(
            budget=_tokens("thinking_budget", extra["thinking_budget"]),
            grace=_tokens("thinking_grace", extra.get("thinking_grace", DEFAULT_GRACE)),
            rule=rule,
        )


def _tokens(key: str, value: Any) -> int:
    # JSON has one kind of number, so 512.0 is a count too; true is none.
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or value < 0:
        raise UserError(f"{key} {value!r}: give a whole number of tokens, 0 or more")
    return int(value)
