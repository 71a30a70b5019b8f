"""A thinking budget in the prompt and in the reward: the policy learns to keep what it is told.

After L1 (arXiv 2503.04697): each prompt says how many tokens the reply may think, and a right reply that thinks
longer is paid less. Nothing is enforced; the budget processor (`thinking_budget`) may cap it beside this.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from budget.control import BudgetRule
from budget.told import told
from engine.protocol import Completion
from reward import Verdict
from rl.config import ConditionConfig
from rl.sample import Score, share_of
from workbench.conversation import Conversation

_NO_LIMIT = 10**9


def budget_of(identity: str, config: ConditionConfig) -> int:
    """The budget of the prompt with this id: always the same, and each as often as the others."""
    digest = hashlib.blake2b(f"budget/{identity}".encode(), digest_size=4).digest()
    return config.budgets[int.from_bytes(digest, "big") % len(config.budgets)]


def conditioned(question: Conversation, config: ConditionConfig) -> Conversation:
    """The question that tells its budget."""
    bare = replace(question, messages=question.prompt)
    return told(bare, budget_of(question.id, config), config.instruction)


def paid(spent: int, budget: int, slack: float) -> float:
    """The share of its reward that a reply gets: all within the budget, none from (1 + slack) times it on.

    >>> paid(20, 16, 0.5), paid(16, 16, 0.5), paid(30, 16, 0.5)
    (0.5, 1.0, 0.0)
    """
    return min(max(1.0 - (spent - budget) / (slack * budget), 0.0), 1.0)


class BudgetReward:
    """Implements rl.sample.Score: another reward, paid in full within the prompt's budget alone. What is below
    0 stays: nobody gains by overspending.

    parts: those of the other, with "thinking_tokens", "budget" and "paid", the share.
    """

    def __init__(self, inner: Score, config: ConditionConfig, tokenizer: Any) -> None:
        self.inner, self.config = inner, config
        self._close = list(BudgetRule.for_tokenizer(tokenizer, _NO_LIMIT).close_ids)

    def __call__(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
        checks: Sequence[Verdict],
    ) -> list[Verdict]:
        """What cannot be decided stays undecided."""
        verdicts = iter(self.inner(questions, groups, modes, checks))
        return [
            self._paid(next(verdicts), done, budget_of(question.id, self.config), opened)
            for question, group, opened in zip(questions, groups, modes, strict=True)
            for done in group
        ]

    def _paid(self, verdict: Verdict, done: Completion, budget: int, opened: bool) -> Verdict:
        if verdict.value is None:
            return verdict
        spent = thinking_tokens(done.token_ids, self._close) if opened else 0
        share = paid(spent, budget, self.config.slack)
        parts = {**verdict.parts, "thinking_tokens": spent, "budget": budget, "paid": share}
        return Verdict(share_of(verdict.value, parts), verdict.status, parts)


def thinking_tokens(reply: Sequence[int], close: Sequence[int]) -> int:
    """How many tokens of a reply stand before its closing tag; all of them where it has none."""
    size = len(close)
    ends = (n for n in range(len(reply) - size + 1) if list(reply[n : n + size]) == list(close))
    return next(ends, len(reply))
