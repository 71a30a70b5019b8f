"""Render conversations to token ids with a token-exact loss mask.

Text between special tokens is tokenized run by run, as `apply_chat_template` does for a prompt. A hard
cut stands where generation starts, so the ids of a prompt are a prefix of those of prompt and reply. Another cut stands on each side of
`</think>`: the tag always has the same ids, those that a thinking budget forces. Control-token text
inside content becomes ordinary text: only this module writes the special ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from workbench.chat import foreign
from workbench.chat import template as t
from workbench.chat.tokens import encoder_of, format_of
from workbench.conversation import Conversation, Message
from workbench.errors import UserError

LossOn = Literal["all", "last"]
_PROMPT_END = 16


@dataclass(frozen=True)
class Rendered:
    """text; input_ids [T]; loss_mask [T], 1 on the tokens that the model generates."""

    text: str
    input_ids: list[int]
    loss_mask: list[int]


class _Piece(NamedTuple):
    """A special token, or a run of text that is tokenized on its own; its first `lead` characters
    carry no loss."""

    text: str
    special: bool = False
    loss: int = 0
    lead: int = 0


def render(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    thinking: bool = True,
    *,
    tokenizer: Any,
    loss_on: LossOn = "all",
) -> Rendered:
    """Render a whole conversation.

    The last message, if it is the assistant's, keeps its trace; older ones lose everything up to
    `</think>`. With `reasoning_cut: true` in it, no newline is put between trace and tag. `/think` and `/no_think` in system and user turns override `thinking`; the last wins.
    The loss is on what follows each generation prompt up to and including the end of the turn.
    loss_on: "all" assistant turns, or the "last" message only (training unrolls multi-turn data,
    because older turns stand there without their trace).
    A checkpoint that brings another template is rendered by it (workbench.chat.foreign).

    Raises: UserError on an unknown role, a system message that is not the first, content that is no
    text, or a trace that holds `</think>` (it would end there).
    """
    if format_of(tokenizer) != "nano-v2":
        return Rendered(*foreign.rendered(messages, tools, thinking, tokenizer, loss_on))
    return _encode(list(_conversation(messages, tools, thinking, loss_on)), tokenizer)


def prompt_ids(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    thinking: bool = True,
    *,
    tokenizer: Any,
) -> list[int]:
    """Ids of the messages with the generation prompt: what to sample from."""
    if format_of(tokenizer) != "nano-v2":
        return foreign.prompt_ids(messages, tools, thinking, tokenizer)
    pieces = [*_turns(messages, tools, history=len(messages)), *_opening(messages, thinking)]
    return _encode(pieces, tokenizer).input_ids


def ids_since(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> list[int]:
    """Ids of a prompt from the token on that ends the last reply."""
    place = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
    pieces = list(_turns(messages, tools, history=len(messages)))
    before = len(list(_turns(messages[: place + 1], tools, history=place + 1)))
    end = [_Piece(t.END, special=True), _Piece("\n")]
    since = [*end, *pieces[before:], *_opening(messages, thinking)]
    return _encode(since, tokenizer).input_ids


def opens_trace(prompt: Sequence[int], tokenizer: Any) -> bool:
    """Whether a prompt's ids [T] end inside an open trace, so that a reply begins in it.

    Asked for is not opened: `/no_think` may have closed it, and many templates know no reasoning. Whoever
    reads such a reply as one that began in a trace finds no answer in it.
    """
    # The end of every generation prompt; a tag and its newline have 8 bytes, so no more than 8 ids.
    end = encoder_of(tokenizer).decode(prompt[-_PROMPT_END:])
    return end.rstrip().endswith(t.OPEN)


def as_text(conversation: Conversation) -> str:
    """The conversation in the chat format without its special tokens (to learn a vocabulary from)."""
    c = conversation
    pieces = _conversation(c.messages, c.tools, c.thinking, "all")
    return "".join(piece.text for piece in pieces if not piece.special)


def _encode(pieces: Sequence[_Piece], tokenizer: Any) -> Rendered:
    encoder = encoder_of(tokenizer)
    runs = iter(encoder.runs([p.text for p in pieces if not p.special]))
    ids: list[int] = []
    mask: list[int] = []
    for piece in pieces:
        run = [encoder.special[piece.text]] if piece.special else next(runs)
        ids += run
        without = (
            encoder.starting_before(piece.text, piece.lead) if piece.loss and piece.lead else 0
        )
        mask += [0] * without + [piece.loss] * (len(run) - without)
    return Rendered("".join(piece.text for piece in pieces), ids, mask)


def _conversation(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    loss_on: LossOn,
) -> Iterator[_Piece]:
    has_reply = bool(messages) and messages[-1]["role"] == "assistant"
    history = len(messages) - has_reply
    yield from _turns(messages, tools, history=history, loss=int(loss_on == "all"))
    if has_reply:
        yield from _opening(messages, thinking)
        yield from _reply(messages[-1], on=t.thinking_mode(messages, thinking))


def _turns(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    *,
    history: int,
    loss: int = 0,
) -> Iterator[_Piece]:
    """The system turn and the first `history` messages."""
    if not messages:
        raise UserError("a conversation without messages; give at least one")
    system = t.without_keywords(t.content_of(messages[0])) if _is(messages, 0, "system") else ""
    block = t.tools_block(tools)
    gap = t.BLOCK_BEFORE if system and block else ""
    yield _Piece(t.SYSTEM, special=True)
    yield _Piece(f"System\n{system}{gap}{block}\n")
    for place in range(history):
        message = messages[place]
        role = message["role"]
        if role == "user":
            yield _Piece(t.TURN, special=True)
            yield _Piece(f"User\n{t.without_keywords(t.content_of(message))}\n")
        elif role == "assistant":
            yield _Piece(t.TURN, special=True)
            answer = _after_trace(t.content_of(message))
            text = f"Assistant\n{t.with_calls(answer, message.get('tool_calls'))}\n"
            yield _Piece(text, loss=loss, lead=len("Assistant\n"))
            yield _Piece(t.END, special=True, loss=loss)
            yield _Piece("\n")
        elif role == "tool":
            if not _is(messages, place - 1, "tool"):
                yield _Piece(t.TURN, special=True)
                yield _Piece(f"User\n{t.tool_responses(_results(messages, place))}\n")
        elif role != "system":
            raise UserError(f"message role {role!r}; allowed: system, user, assistant, tool")
        elif place:
            raise UserError(
                "a system message stands after the first place; merge it into the first"
            )


def _opening(messages: Sequence[Message], thinking: bool) -> Iterator[_Piece]:
    """The generation prompt."""
    yield _Piece(t.TURN, special=True)
    on = t.thinking_mode(messages, thinking)
    yield _Piece("Assistant\n" + (t.THINK_ON if on else t.THINK_OFF))


def _reply(message: Message, *, on: bool) -> Iterator[_Piece]:
    trace, answer = t.split_trace(message)
    after = t.with_calls(answer, message.get("tool_calls")) + "\n"
    if on:
        # A budget that runs out in the middle of a line puts the tag right there.
        yield _Piece(trace + ("" if message.get("reasoning_cut") else t.CLOSE_BEFORE), loss=1)
        yield _Piece(t.CLOSE, loss=1)
        after = t.CLOSE_AFTER + after
    yield _Piece(after, loss=1)
    yield _Piece(t.END, special=True, loss=1)
    yield _Piece("\n")


def _after_trace(content: str) -> str:
    return content.rpartition(t.CLOSE)[2].lstrip("\n") if t.CLOSE in content else content


def _results(messages: Sequence[Message], place: int) -> list[Any]:
    contents: list[Any] = []
    while _is(messages, place, "tool"):
        content = messages[place].get("content")
        contents.append("" if content is None else content)
        place += 1
    return contents


def _is(messages: Sequence[Message], place: int, role: str) -> bool:
    return 0 <= place < len(messages) and messages[place]["role"] == role
