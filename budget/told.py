"""A budget that is told: an instruction in the prompt, which nothing enforces. Imports no torch."""

from dataclasses import replace

from workbench.conversation import Conversation
from workbench.errors import UserError


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


def told(question: Conversation, budget: int, instruction: str) -> Conversation:
    """The question with its budget at the end of its last user message."""
    messages = list(question.prompt)
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise UserError(f"question {question.id!r} has no user message to tell a budget in")
    last = users[-1]
    content = f"{messages[last]['content']}\n{instruction.format(budget=budget)}"
    messages[last] = {**messages[last], "content": content}
    return replace(question, messages=messages)
