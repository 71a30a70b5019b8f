"""A budget that is told: an instruction in the prompt, which nothing enforces. Imports no torch."""

from collections import Counter
from collections.abc import MutableSequence, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from workbench.chat.template import split_trace, thinking_mode
from workbench.chat.tokens import encoder_of
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.schema import Section


def must_hold_budget(instruction: str) -> str:
    """The instruction. Raises: ValueError where no budget can be put into it."""
    try:
        two = [instruction.format(budget=budget) for budget in (1, 2)]
    except (KeyError, IndexError, ValueError):
        two = ["", ""]
    if two[0] == two[1]:
        raise ValueError(
            f"instruction {instruction!r:.80} must hold {{budget}}, and no other braces"
        )
    return instruction


Instruction = Annotated[str, AfterValidator(must_hold_budget)]


class ToldConfig(Section):
    """Thinking budgets in the prompt."""

    budgets: list[int] = Field(min_length=1)
    """Budgets in tokens of the trace."""
    instruction: Instruction = "Think for at most {budget} tokens."
    """What is added to the last user message, with {budget}."""

    @field_validator("budgets")
    @classmethod
    def _above_0(cls, budgets: list[int]) -> list[int]:
        if any(budget < 1 for budget in budgets):
            raise ValueError(f"budgets {budgets}: give numbers above 0")
        return budgets


def told(question: Conversation, budget: int, instruction: str) -> Conversation:
    """The question with its budget at the end of its last user message, and its reply, if any, behind."""
    messages = list(question.messages)
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise UserError(f"question {question.id!r} has no user message to tell a budget in")
    last = users[-1]
    content = f"{messages[last]['content']}\n{instruction.format(budget=budget)}"
    messages[last] = {**messages[last], "content": content}
    return replace(question, messages=messages)


def tell_what_is_kept(
    conversations: MutableSequence[Conversation], config: ToldConfig, tokenizer: Any
) -> dict[str, int]:
    """Tell each conversation with a trace the smallest of the budgets that its trace keeps, in place.

    Returns how many were told each budget; one whose trace is longer than all of them is told none.
    """
    count: Counter[str] = Counter()
    for place, conversation in enumerate(conversations):
        if conversation.reply is None or not thinking_mode(
            conversation.messages, conversation.thinking
        ):
            continue
        kept = smallest_kept(conversation.reply, config.budgets, tokenizer)
        count["none" if kept is None else str(kept)] += 1
        if kept is not None:
            conversations[place] = told(conversation, kept, config.instruction)
    return dict(count)


def smallest_kept(reply: dict[str, Any], budgets: Sequence[int], tokenizer: Any) -> int | None:
    """The smallest budget that holds the reply's trace; None where none does."""
    trace, _ = split_trace(reply)
    # A whole trace ends with a line; one that was cut ends where it was.
    (ids,) = encoder_of(tokenizer).runs([trace if reply.get("reasoning_cut") else f"{trace}\n"])
    return next((budget for budget in sorted(budgets) if len(ids) <= budget), None)
