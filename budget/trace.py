"""What became of a finished sequence under a budget: lengths, who closed, which tokens were forced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from budget.control import BudgetRule, BudgetState

_NEVER = 10**9
"""A budget that no sequence reaches."""


@dataclass(frozen=True)
class TraceLengths:
    """Lengths in tokens.

    trace: all tokens of the trace, its closing tag and the part in the prompt included (what a budget
    counts). answer: sampled tokens after it, the end of the turn included. closed: whether the trace
    has ended; forced: how many tokens the rule chose.
    """

    trace: int
    answer: int
    closed: bool
    forced: int

    def adheres(self, rule: BudgetRule) -> bool:
        """Whether the trace is as long as the rule allows: budget + grace + the closing tag."""
        return self.trace <= rule.most_thinking_tokens


def measure(
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    tokenizer: Any,
    rule: BudgetRule | None = None,
) -> TraceLengths:
    """Measure a sampled reply. rule: the one it was sampled under, if any.

    A reply that never opened a trace is all answer.
    """
    state = (rule or BudgetRule.for_tokenizer(tokenizer, _NEVER)).state(prompt_ids)
    if state.phase == "closed":
        # The prompt had closed the trace: nothing of it was sampled.
        return TraceLengths(0, len(token_ids), True, 0)
    forced = answer = 0
    for token in token_ids:
        forced += state.forced is not None
        answer += state.phase in ("closed", "waiting")
        state.push(token)
    return TraceLengths(state.thinking_tokens, answer, _is_closed(state), forced)


def _is_closed(state: BudgetState) -> bool:
    return state.phase == "closed"
