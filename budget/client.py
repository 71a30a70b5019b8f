"""Thinking budgets over an OpenAI-compatible server, with or without our processor in it.

With it (`vllm serve ... --logits-processors budget.processor:ThinkingBudgetProcessor`) one call does::

    client.chat.completions.create(..., extra_body=extra_body(512))

Without it `complete` makes two: the model card's rule from outside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from budget.control import RuleName
from budget.requests import DEFAULT_GRACE, BudgetRequest
from budget.vocabulary import CLOSE

_CUT = ".\n</think>\n\n"
"""What the model card's client writes where it cuts a trace."""


@dataclass(frozen=True)
class ServedReply:
    """text: the whole reply, the tag included. thinking_tokens, total_tokens: as the server counts.
    cut: whether the trace was cut at the budget. finish_reason: the last call's."""

    text: str
    thinking_tokens: int
    total_tokens: int
    cut: bool
    finish_reason: str


def extra_body(
    budget: int, grace: int = DEFAULT_GRACE, rule: RuleName = "newline"
) -> dict[str, Any]:
    """The part of a request that carries the budget, for vLLM's OpenAI-compatible routes."""
    return {"vllm_xargs": BudgetRequest(budget, grace, rule).extra_args()}


def complete(
    create: Callable[..., Any], prompt: str, *, budget: int, max_tokens: int, **sampling: Any
) -> ServedReply:
    """Two raw completions: think for at most `budget` tokens, close the trace, answer.

    create: `openai.OpenAI(...).completions.create`, or anything that is called like it. prompt: text
    that ends with the open trace (the tokenizer's chat template with its generation prompt).
    max_tokens: of both calls together. Errors are those of `create`.
    """
    BudgetRequest.read({"thinking_budget": budget})
    first_limit = min(budget, max_tokens)
    text, finish, used = "", "length", 0
    if first_limit:
        text, finish, used = _call(create, prompt, first_limit, sampling)
    if finish != "length" or used >= max_tokens:
        return ServedReply(text, used, used, False, finish)
    cut = CLOSE not in text
    opened = text + _CUT if cut else text
    rest, finish, more = _call(create, prompt + opened, max_tokens - used, sampling)
    return ServedReply(opened + rest, used, used + more, cut, finish)


def _call(
    create: Callable[..., Any], prompt: str, max_tokens: int, sampling: dict[str, Any]
) -> tuple[str, str, int]:
    done = create(prompt=prompt, max_tokens=max_tokens, **sampling)
    choice = done.choices[0]
    return choice.text, choice.finish_reason, done.usage.completion_tokens
