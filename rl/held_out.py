"""What is held out is not trained on."""

import json
from collections.abc import Iterable, Sequence

from environments.protocol import Task
from workbench.conversation import Conversation
from workbench.errors import UserError


def check_held_out(
    trained: Sequence[Conversation | Task], held_out: Sequence[Conversation | Task]
) -> None:
    """Raises: UserError where what is held out, or its problem in other words, is trained on."""
    known = {key for item in trained for key in _keys(item)}
    both = [item.id for item in held_out if not known.isdisjoint(_keys(item))]
    if both:
        what = "tasks" if isinstance(held_out[0], Task) else "prompts"
        raise UserError(
            f"{len(both)} of {len(held_out)} held-out {what} are also trained on ({both[0]}, ...); "
            "give `held_out` another split"
        )


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
