"""What is asked and how it is judged, over one turn or many: reset, step, verify.

An environment object plays one episode at a time and knows nothing of models. What a tool answers,
errors included, goes back to the model as text; only the environment's own breakdown is an exception,
which makes the episode undecided and never a reward.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reward.verdict import Verdict
from workbench.chat import Reply
from workbench.conversation import Message

# {"name": ..., "arguments": {...}}, as workbench.chat.parse reads it from a reply.
ToolCall = dict[str, Any]
# One turn of a solution: calls, or the text of a reply.
Gold = str | list[ToolCall]


@dataclass(frozen=True)
class Task:
    """What is asked. `data` is the environment's own: where the world starts, what counts as done.
    problem: as of a workbench.conversation.Conversation.

    Example: Task("house-rl-1-0", "house", [{"role": "user", "content": "Heat the hall to 20 degrees."}],
    tools=[...], data={"start": {...}, "calls": [...]})
    """

    id: str
    environment: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    data: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class Step:
    """messages: what the model sees next (tool results, or the user's next request), behind all that
    was said, or anew: in place of it. tools: the tools from now on, where they change. done: the
    episode is over. reward: what the reply earned, where the environment pays turn by turn; the verdict
    has the sum in it."""

    messages: list[Message] = field(default_factory=list)
    done: bool = False
    tools: list[dict[str, Any]] | None = None
    anew: bool = False
    reward: float | None = None


class EnvironmentFailed(RuntimeError):
    """An environment broke or was stopped. verdict: without a value; it says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict.parts.get("reason", verdict.status)))
        self.verdict = verdict


class Environment(Protocol):
    """One world in which one episode at a time is played."""

    def reset(self, task: Task) -> None:
        """Begin the task from its own start; nothing of an earlier episode stays."""
        ...

    def step(self, reply: Reply) -> Step:
        """Take one reply: carry out its calls, in order; no calls: the model ends its turn."""
        ...

    def verify(self) -> Verdict:
        """Compare the world's state with the one that the task's own solution leads to.

        value 1.0 or 0.0. It changes nothing and may be asked at any time.
        """
        ...

    def gold(self) -> Sequence[Gold]:
        """The task's own solution: of each user turn the calls, or a text, to be given to `step` in order."""
        ...


def replies_of(turn: Gold) -> list[Reply]:
    """One turn of a solution as replies: a text; or all calls, then the end of the turn.

    >>> [(reply.answer, reply.tool_calls) for reply in replies_of("Rain.")]
    [('Rain.', None)]
    >>> [(r.answer, r.tool_calls) for r in replies_of([{"name": "f", "arguments": {}}])]
    [('', [{'name': 'f', 'arguments': {}}]), ('Done.', None)]
    """
    if isinstance(turn, str):
        return [Reply("", turn, None, True)]
    return [*([calling(*turn)] if turn else []), Reply("", "Done.", None, True)]


def calling(*calls: ToolCall) -> Reply:
    """The reply of a model that makes these calls and says nothing; none: that ends its turn."""
    return Reply("", "", list(calls) or None, True)


def tool_result(content: Any) -> Message:
    """A tool message; anything but text is written as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return {"role": "tool", "content": text}


def call_tool(
    call: ToolCall, tools: dict[str, Callable[..., Any]], *, allowed: set[str]
) -> tuple[Any, bool]:
    """What the tool answers, and whether it worked. A wrong name or wrong arguments are an answer too.

    Dispatch by name among `allowed`; nothing that a model wrote is ever evaluated.
    """
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or name not in allowed or name not in tools:
        return {"error": f"there is no tool {str(name)[:60]!r}"}, False
    if not isinstance(arguments, dict):
        return {"error": "arguments must be an object"}, False
    try:
        return tools[name](**arguments), True
    except Exception as error:  # noqa: BLE001 - a tool's error is text for the model
        return {"error": f"{type(error).__name__}: {error}"[:300]}, False


def play_gold(environment: Environment, task: Task) -> Verdict:
    """Play the task's own solution and verify it: what every environment must pass."""
    environment.reset(task)
    for turn in environment.gold():
        for reply in replies_of(turn):
            environment.step(reply)
    return environment.verify()
