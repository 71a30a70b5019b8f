"""A question with a check: an environment of one turn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from environments.protocol import Step, Task, ToolCall
from reward import check
from reward.plugin import is_plugin
from reward.verdict import Verdict, failed
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation, Message

NAME = "question"


def question_task(question: Conversation, options: Mapping[str, Any] | None = None) -> Task:
    """The question as a task. options: of its check, over those that it has."""
    spec = question.check
    if spec is not None and options:
        spec = replace(spec, options={**spec.options, **options})
    return Task(
        id=question.id,
        environment=NAME,
        messages=question.prompt,
        tools=question.tools or [],
        data={"check": spec},
        problem=question.problem,
    )


def checked(spec: CheckSpec, text: str, *, opened: bool, asked: Sequence[Message] = ()) -> Verdict:
    """What a check says of a reply. opened: its prompt ended inside an open trace. asked: the messages
    of the prompt, which a function of the user's own may want.

    Raises: UserError where the check's reference or options are wrong.
    """
    options = dict(spec.options)
    if opened:
        options["thinking_opened"] = True
    if is_plugin(spec.kind):
        options["prompt"] = list(asked)
    return check(spec.kind, text, spec.reference, **options)


class QuestionEnvironment:
    """Implements environments.protocol.Environment: the first reply ends it, the check decides."""

    def __init__(self) -> None:
        self._spec: CheckSpec | None = None
        self._reply: Reply | None = None
        self._asked: Sequence[Message] = ()

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._spec, self._reply = task.data["check"], None
        self._asked = task.messages

    def step(self, reply: Reply) -> Step:
        """See protocol."""
        self._reply = reply
        return Step(done=True)

    def verify(self) -> Verdict:
        """See protocol. Raises: UserError where the check's reference or options are wrong."""
        if self._spec is None or self._reply is None:
            return failed("no check" if self._spec is None else "no reply")
        text, opened = self._reply.text, self._reply.opened
        return checked(self._spec, text, opened=opened, asked=self._asked)

    def gold(self) -> list[list[ToolCall]]:
        """See protocol. The right reply is not a call."""
        return []
