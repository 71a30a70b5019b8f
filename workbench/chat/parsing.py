"""Read replies and conversations back. Reading a reply never raises, whatever the model wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.chat import template as t
from workbench.chat.calls import read_call
from workbench.chat.tokens import encoder_of, format_of
from workbench.conversation import Message
from workbench.errors import UserError


@dataclass(frozen=True)
class Reply:
    """A parsed reply.

    thinking: the trace ("" where there was none). answer: the final text without tool calls.
    tool_calls: [{name, arguments}], or None where there is none or the block cannot be read.
    well_formed: exactly one `</think>` (none with reasoning off), and readable tool calls, if any,
    in one block at the end. text, opened: what was parsed, and how its prompt ended; a checker reads
    the reply from them.
    """

    thinking: str
    answer: str
    tool_calls: list[dict[str, Any]] | None
    well_formed: bool
    text: str = field(default="", compare=False)
    opened: bool = field(default=False, compare=False)


def parse(text: str, thinking: bool = True) -> Reply:
    """Parse what the model generated after the generation prompt.

    `thinking` says how the prompt ended: `<think>` (True) or `<think></think>` (False). A reply that
    repeats that opening itself is accepted, and so is one that ends with the end-of-turn token as
    text. Unfinished thinking is all trace: the answer is empty. An unreadable tool call stays in the
    answer.
    """
    return replace(_parse_whole(text, thinking=thinking), text=text, opened=thinking)


def _parse_whole(text: str, *, thinking: bool) -> Reply:
    text = (
        text.removesuffix("\n").removesuffix(t.END) if text.rstrip("\n").endswith(t.END) else text
    )
    if text.startswith(t.THINK_OFF):
        return _parse(text[len(t.THINK_OFF) :], thinking=False)
    if text.startswith(t.OPEN):
        return _parse(text[len(t.OPEN) :].removeprefix("\n"), thinking=True)
    return _parse(text, thinking=thinking)


def _parse(text: str, *, thinking: bool) -> Reply:
    closes = text.count(t.CLOSE)
    if thinking and not closes:
        return Reply(text, "", None, False)
    trace, rest = "", text.removesuffix("\n")
    if thinking:
        trace, _, rest = rest.partition(t.CLOSE)
        trace = trace.removesuffix(t.CLOSE_BEFORE)
        rest = rest[next(n for n in (2, 1, 0) if rest.startswith(t.CLOSE_AFTER[:n])) :]
    answer, calls, readable = _split_calls(rest)
    return Reply(trace, answer, calls, closes == int(thinking) and readable)


def _split_calls(text: str) -> tuple[str, list[dict[str, Any]] | None, bool]:
    """The text before the calls, the calls, and whether the text is as the format wants it."""
    if t.CALL_OPEN not in text and t.CALL_CLOSE not in text:
        return text, None, True
    body = text.rstrip()
    start = body.rfind(t.CALL_OPEN)
    if start < 0 or not body.endswith(t.CALL_CLOSE):
        return text, None, False
    calls = _read_calls(body[start + len(t.CALL_OPEN) : -len(t.CALL_CLOSE)])
    if calls is None:
        return text, None, False
    before = text[:start].removesuffix(t.CALLS_BEFORE)
    return before, calls, t.CALL_OPEN not in before and t.CALL_CLOSE not in before


def _read_calls(body: str) -> list[dict[str, Any]] | None:
    items = t.read_json(body)
    if not isinstance(items, list) or not items:
        return None
    calls = [read_call(item, as_text=True) for item in items]  # some models write text
    return None if None in calls else [call for call in calls if call is not None]


def parse_conversation(
    input_ids: Sequence[int], tokenizer: Any
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools from ids: the inverse of `render` up to normal forms.

    Normal forms: no empty system message; no `/think` keywords; only the last turn has its
    reasoning_content, and no empty one; tool calls and tools are bare ({name, arguments}; the
    function schema); tool results are text. A prompt is read too; its open last turn is left out.
    A user turn that spells a whole `<TOOL_RESPONSE>` block, a system text that ends with a whole
    tool list and an answer that ends with a whole `<TOOLCALL>` block are what they spell: in this
    format those are text.

    Raises: UserError where the tokenizer does not speak the format, or the ids do not start with a
    system turn.
    """
    if format_of(tokenizer) != "nano-v2":
        raise UserError(
            "parse_conversation reads the nano-v2 format only; this tokenizer has another"
        )
    encoder = encoder_of(tokenizer)
    system, turn, end = (encoder.special[token] for token in t.SPECIAL_TOKENS)
    if not input_ids or input_ids[0] != system:
        raise UserError(f"the ids do not start with {t.SYSTEM}; give those of a whole conversation")
    starts = [place for place, token in enumerate(input_ids) if token in (system, turn)]
    runs = [
        list(input_ids[start + 1 : stop])
        for start, stop in zip(starts, [*starts[1:], len(input_ids)], strict=True)
    ]
    messages, tools = _system_turn(encoder.decode(runs[0]))
    for number, run in enumerate(runs[1:], start=2):
        closed = end in run
        text = encoder.decode(run[: run.index(end)] if closed else run)
        if text.startswith("User\n"):
            messages += _user_turn(text[len("User\n") : -1])
        elif closed:
            text = text.removeprefix("Assistant\n")
            messages.append(_assistant_turn(text, last=number == len(runs)))
    return messages, tools


def _system_turn(text: str) -> tuple[list[Message], list[dict[str, Any]] | None]:
    text = text.removeprefix("System\n").removesuffix("\n")
    tools = None
    if text.endswith(t.TOOLS_CLOSE):
        # Inside the list the tag is escaped, so the last one opens it.
        before, opening, body = text.removesuffix(t.TOOLS_CLOSE).rpartition(t.TOOLS_OPEN)
        found = t.read_json(body) if opening else None
        if isinstance(found, list) and found:
            text, tools = before.removesuffix(t.BLOCK_BEFORE), found
    return ([{"role": "system", "content": text}] if text else []), tools


def _user_turn(text: str) -> list[Message]:
    if text.startswith(t.RESPONSE_OPEN) and text.endswith(t.RESPONSE_CLOSE):
        results = _split_results(text[len(t.RESPONSE_OPEN) : -len(t.RESPONSE_CLOSE)])
        if results:
            return [{"role": "tool", "content": result} for result in results]
    return [{"role": "user", "content": text}]


def _split_results(body: str) -> list[str]:
    """The results of a `<TOOL_RESPONSE>` block; empty where it cannot be read."""
    decoder = json.JSONDecoder()
    results = []
    start = 0
    while True:
        try:
            value, stop = decoder.raw_decode(body, start)
        except (ValueError, RecursionError):
            return []
        results.append(value if isinstance(value, str) else body[start:stop])
        if stop == len(body):
            return results
        if not body.startswith(", ", stop):
            return []
        start = stop + len(", ")


def _assistant_turn(text: str, *, last: bool) -> Message:
    on = last and text.startswith(t.THINK_ON)
    if last:
        text = text[len(t.THINK_ON if on else t.THINK_OFF) :]
    reply = _parse(text, thinking=on)
    message: Message = {"role": "assistant", "content": reply.answer}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = reply.tool_calls
    return message
