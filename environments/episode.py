"""An environment being played: what to ask next, and what a reply does to it."""

import math
from typing import Any

from environments.protocol import Environment, Task
from reward.verdict import Verdict, decided
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation, Message


class Episode:
    """One environment with its task, from its first prompt to its verdict.

    max_turns: most replies; an episode that needs more has failed. None: the environment has an end of
    its own.
    """

    def __init__(self, world: Environment, task: Task, *, max_turns: int | None = None) -> None:
        self.world, self.task, self.max_turns = world, task, max_turns
        self.messages: list[Message] = list(task.messages)
        self.tools: list[dict[str, Any]] = task.tools
        self.done = False
        self.continues = True
        """Whether what is asked next stands behind all that was said, with the same tools."""
        self.num_turns, self.num_calls = 0, 0
        self.rewards: list[float | None] = []
        """Of each reply, where the environment pays turn by turn."""
        self._begun = False

    def ask(self) -> Conversation | None:
        """What to send next; None once the episode is over."""
        if self.done or self.num_turns == self.max_turns:
            return None
        return Conversation(self.task.id, self.task.environment, self.messages, self.tools)

    def answer(self, reply: Reply) -> None:
        """Take the model's reply to what was asked. Raises: what the world's own breakdown raises."""
        self.begin()
        self.messages = [*self.messages, _message(reply)]
        self.num_turns += 1
        self.num_calls += len(reply.tool_calls or [])
        step = self.world.step(reply)
        self.rewards.append(step.reward)
        self.messages = step.messages if step.anew else [*self.messages, *step.messages]
        self.continues = not step.anew and step.tools is None
        self.tools = step.tools if step.tools is not None else self.tools
        self.done = step.done

    def verdict(self) -> Verdict:
        """What the episode came to."""
        if not self.done and self.num_turns == self.max_turns:
            return self.failure(f"over {self.max_turns} turns")
        self.begin()
        return self.world.verify()

    def failure(self, reason: str) -> Verdict:
        """The verdict on an episode that went over a limit: what its turns had earned, and no more."""
        return decided(math.fsum(r for r in self.rewards if r is not None), reason=reason)

    def close(self) -> None:
        """End what the world holds, such as a process, once the verdict is there. Nothing is asked of it
        afterwards."""
        close = getattr(self.world, "close", None)
        if close is not None:
            close()

    def begin(self) -> None:
        """The world starts with the first reply: who only asks needs none, and one may not start."""
        if not self._begun:
            self.world.reset(self.task)
            self._begun = True


def _message(reply: Reply) -> Message:
    message: Message = {"role": "assistant", "content": reply.answer}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": c} for c in reply.tool_calls]
    return message


def as_question(task: Task, domain: str = "") -> Conversation:
    """The task as a benchmark's question, whose check is its environment; `as_task` is the inverse."""
    options = {key: value for key, value in task.data.items() if key != "solution"}
    return Conversation(
        id=task.id,
        domain=domain or task.environment,
        messages=task.messages,
        tools=task.tools,
        check=CheckSpec(task.environment, task.data.get("solution"), options),
        problem=task.problem,
    )


def as_task(question: Conversation) -> Task:
    """A question whose check is an environment as its task; the check's reference is the solution."""
    check = question.check
    assert check is not None
    return Task(
        id=question.id,
        environment=check.kind,
        messages=question.prompt,
        tools=question.tools or [],
        data={**check.options, "solution": check.reference},
        problem=question.problem,
    )
