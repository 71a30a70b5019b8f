"""What is held out is not trained on."""

import json
from collections.abc import Iterable, Sequence

from environments.protocol import Task
from workbench.conversation import Conversation
from workbench.errors import UserError


def check_prompts(trained: Sequence[Conversation], held_out: Sequence[Conversation]) -> None:
    """Raises: UserError where a held-out prompt, or its problem in other words, is trained on."""
    known = {key for conversation in trained for key in _keys(conversation)}
    _refuse("prompts", [c.id for c in held_out if not known.isdisjoint(_keys(c))], len(held_out))


def check_tasks(trained: Sequence[Task], held_out: Sequence[Task]) -> None:
    """Raises: UserError where a held-out task, or its problem in other words, is trained on."""
    known = {key for task in trained for key in _task_keys(task)}
    _refuse("tasks", [t.id for t in held_out if not known.isdisjoint(_task_keys(t))], len(held_out))


def _refuse(what: str, both: Sequence[str], size: int) -> None:
    if both:
        raise UserError(
            f"{len(both)} of {size} held-out {what} are also trained on ({both[0]}, ...); give "
            "`held_out` another split"
        )


def _keys(conversation: Conversation) -> Iterable[str]:
    yield _words(conversation.prompt, conversation.tools)
    if conversation.problem is not None:
        yield f"{conversation.domain}: {conversation.problem}"


def _task_keys(task: Task) -> Iterable[str]:
    yield _words(task.messages, task.data)
    if task.problem is not None:
        yield task.problem


def _words(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True)
