"""What is held out is not trained on."""

import json
from collections.abc import Iterable, Sequence

from environments.protocol import Task
from workbench.conversation import Conversation
from workbench.errors import UserError


def check_held_out(
    trained: Sequence[Conversation | Task],
    held_out: Sequence[Conversation | Task],
    *,
    name: str = "held_out",
) -> None:
    """Raises: UserError where what is held out, or its problem in other words, is trained on."""
    both = shared_with(trained, held_out)
    if both:
        what = "tasks" if isinstance(held_out[0], Task) else "prompts"
        raise UserError(
            f"{len(both)} of {len(held_out)} {name.replace('_', '-')} {what} are also trained on "
            f"({both[0]}, ...); give `{name}` another split"
        )


def shared_with(
    known: Sequence[Conversation | Task], others: Sequence[Conversation | Task]
) -> list[str]:
    """The ids of `others` that `known` holds too, perhaps in other words."""
    keys = {key for item in known for key in _keys(item)}
    return [item.id for item in others if not keys.isdisjoint(_keys(item))]


def _keys(item: Conversation | Task) -> Iterable[str]:
    if isinstance(item, Task):
        yield _words(item.messages, item.data)
        if item.problem is not None:
            yield f"{item.environment}: {item.problem}"
        return
    yield _words(item.prompt, item.tools)
    if item.problem is not None:
        yield f"{item.domain}: {item.problem}"


def _words(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True)
