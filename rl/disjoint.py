"""What is held out is not trained on."""

import json
from collections.abc import Iterable, Sequence

from rl.environments.protocol import Task
from workbench.conversation import Conversation
from workbench.errors import UserError


def check_prompts(trained: Sequence[Conversation], held_out: Sequence[Conversation]) -> None:
    """Raises: UserError where a held-out prompt, or its problem in other words, is trained on."""
    known = {key for conversation in trained for key in _keys(conversation)}
    _refuse("prompts", [c.id for c in held_out if not known.isdisjoint(_keys(c))], len(held_out))


def check_tasks(trained: Sequence[Task], held_out: Sequence[Task]) -> None:
    """Raises: UserError where a held-out task is also trained on."""
    known = {_words(task.messages, task.data) for task in trained}
    both = [task.id for task in held_out if _words(task.messages, task.data) in known]
    _refuse("tasks", both, len(held_out))


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


def _words(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True)
