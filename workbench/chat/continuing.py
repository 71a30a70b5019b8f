"""The next turn of a conversation behind the very tokens of the last reply, and not their rendering.

A chat template writes an older reply anew: without its trace, its calls spelled otherwise. Here the prompt
of a turn is what the engine saw and sampled, and then only the ids of what came since.
"""

from collections.abc import Sequence
from typing import Any

from workbench.chat import foreign, rendering
from workbench.chat.tokens import format_of, stop_ids
from workbench.conversation import Message


def kept_prompt(
    before: Sequence[int],
    reply: Sequence[int],
    messages: Sequence[Message],
    *,
    tools: Sequence[dict[str, Any]] | None = None,
    thinking: bool = True,
    tokenizer: Any,
) -> list[int] | None:
    """Ids to sample from: `before` and `reply`, as they were, then the messages behind the last reply.

    messages: the whole conversation, in which the assistant spoke last but for what came since. None where
    the template's text does not say where that begins.
    """
    ours = format_of(tokenizer) == "nano-v2"
    since = (rendering if ours else foreign).ids_since(messages, tools, thinking, tokenizer)
    if since is None:
        return None
    ends = stop_ids(tokenizer)
    if reply and reply[-1] in ends and since and since[0] in ends:
        since = since[1:]
    return [*before, *reply, *since]
