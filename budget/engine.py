"""Thinking budgets through the engine protocol: what an engine's configuration must name."""

from collections.abc import Sequence
from typing import Any

from budget.control import BudgetRule, forced_mask
from workbench.engine.config import EngineConfig
from workbench.engine.protocol import Sampling

PROCESSOR = "budget.processor:ThinkingBudgetProcessor"
FORCED = "budget.engine:forced"


def with_budgets(config: EngineConfig) -> EngineConfig:
    """The same engine, able to enforce `Sampling.thinking_budget`; requests without one cost
    nothing."""
    if PROCESSOR in config.logits_processors:
        return config
    processors = (*config.logits_processors, PROCESSOR)
    return config.model_copy(update={"logits_processors": processors, "forced": FORCED})


def forced(
    prompt_ids: Sequence[int], token_ids: Sequence[int], sampling: Sampling, tokenizer: Any
) -> list[bool]:
    """Which tokens of a reply the request's budget chose instead of the policy."""
    if sampling.thinking_budget is None:
        return [False] * len(token_ids)
    rule = BudgetRule.for_tokenizer(
        tokenizer, sampling.thinking_budget, sampling.thinking_grace, sampling.thinking_rule
    )
    return forced_mask(prompt_ids, token_ids, rule)
