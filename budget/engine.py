"""Thinking budgets through the engine protocol: what an engine's configuration must name."""

from collections.abc import Sequence
from typing import Any

from budget.control import BudgetRule, forced_mask
from budget.trace import measure
from engine.config import EngineConfig
from engine.protocol import Sampling

PROCESSOR = "budget.processor:ThinkingBudgetProcessor"
FORCED = "budget.engine:forced"


def with_budgets(config: EngineConfig) -> EngineConfig:
    """The same engine, able to enforce `Sampling.thinking_budget`; requests without one cost
    nothing."""
    if PROCESSOR in config.logits_processors:
        return config
    processors = (*config.logits_processors, PROCESSOR)
    return config.model_copy(update={"logits_processors": processors, "forced": FORCED})


def rule_of(sampling: Sampling, tokenizer: Any) -> BudgetRule | None:
    """The rule that a sampling asks for, or None where it limits nothing."""
    if sampling.thinking_budget is None:
        return None
    return BudgetRule.for_tokenizer(
        tokenizer, sampling.thinking_budget, sampling.thinking_grace, sampling.thinking_rule
    )


def forced(
    prompt_ids: Sequence[int], token_ids: Sequence[int], sampling: Sampling, tokenizer: Any
) -> list[bool]:
    """Which tokens of a reply the request's budget chose instead of the policy."""
    rule = rule_of(sampling, tokenizer)
    return [False] * len(token_ids) if rule is None else forced_mask(prompt_ids, token_ids, rule)


def adherence(
    prompt_ids: Sequence[int], token_ids: Sequence[int], sampling: Sampling, tokenizer: Any
) -> bool | None:
    """Whether a reply's trace is as long as its budget, grace and closing tag allow; None without
    a budget."""
    rule = rule_of(sampling, tokenizer)
    return None if rule is None else measure(prompt_ids, token_ids, tokenizer, rule).adheres(rule)
