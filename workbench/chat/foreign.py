"""A checkpoint that brings its own chat template keeps it; here are its ids and its loss mask.

The ids of a prompt are those of `tokenizer.apply_chat_template`. A whole conversation's are too,
unless the tokenizer would merge the end of the prompt with the start of the reply: an engine cannot
sample such a token, so the cut stays. What a template cannot express is put into text: a trace as
`<think>` in the last reply's content, tools as our block in the system message.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.chat import template as t
from workbench.chat.tokens import encoder_of
from workbench.chat.traits import Traits, apply, shaped, traits_of
from workbench.conversation import Message
from workbench.errors import UserError

_HOW_TO_CALL = (
    'To use tools, answer with <TOOLCALL>[{"name": "...", "arguments": {...}}]</TOOLCALL> only.'
)
# Private-use characters around the number of a control token that a content spells.
_MARK = re.compile("\ue000(\\d+)\ue001")
_PLACE = "zqplace"


@dataclass
class _Layout:
    """Messages and tools as the template gets them; control tokens in contents are marks."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    thinking: bool
    tokenizer: Any
    traits: Traits
    hidden: list[str] = field(default_factory=list)

    def text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The template's text of messages, marks included."""
        switch = {self.traits.switch or "enable_thinking": self.thinking}
        return apply(self.tokenizer, messages, self.tools, prompt=prompt, **switch)

    def hide(self, value: Any) -> Any:
        """The value with every control token in its texts behind a mark."""
        if isinstance(value, str):
            return self.traits.special.sub(
                self._mark, value.replace("\ue000", self._mark("\ue000"))
            )
        if isinstance(value, dict):
            return {key: self.hide(inner) for key, inner in value.items()}
        return [self.hide(inner) for inner in value] if isinstance(value, list) else value

    def _mark(self, found: Any) -> str:
        self.hidden.append(found if isinstance(found, str) else found[0])
        return f"\ue000{len(self.hidden) - 1}\ue001"

    def shown(self, text: str) -> str:
        """The text with what is hidden back in place."""
        return _MARK.sub(lambda mark: self.hidden[int(mark[1])], text)

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and where each begins in the shown text; only the template's control tokens are any."""
        if "\ue000" not in text:
            done = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            return list(done["input_ids"]), [start for start, _ in done["offset_mapping"]]
        ids: list[int] = []
        starts: list[int] = []
        place = at = 0
        for token in self.traits.special.finditer(text):
            at = self._plain(text[place : token.start()], at, ids, starts)
            ids.append(self.tokenizer.convert_tokens_to_ids(token[0]))
            starts.append(at)
            at, place = at + len(token[0]), token.end()
        self._plain(text[place:], at, ids, starts)
        return ids, starts

    def _plain(self, text: str, at: int, ids: list[int], starts: list[int]) -> int:
        run = self.shown(text)
        done = encoder_of(self.tokenizer).plain.encode(run, add_special_tokens=False)
        ids += done.ids
        starts += [at + start for start, _ in done.offsets]
        return at + len(run)


def rendered(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
    loss_on: str,
) -> tuple[str, list[int], list[int]]:
    """Text, ids and loss mask of a conversation.

    The last reply is what stands after the generation prompt, up to and including the token that ends
    the turn. Older turns that the template rewrites carry no loss. Raises: UserError where the
    template changes the prompt once the last reply is there, so that its span cannot be told.
    """
    if not messages or messages[-1]["role"] != "assistant":
        layout = _lay_out(messages, tools, thinking, tokenizer)
        whole = layout.text(layout.messages, prompt=False)
        ids, starts = layout.encode(whole)
        mask = _older(layout, whole, starts, ids) if loss_on == "all" else [0] * len(ids)
        return layout.shown(whole), ids, mask
    layout = _lay_out(messages[:-1], tools, thinking, tokenizer)
    prompt = layout.text(layout.messages, prompt=True)
    whole = prompt + _reply(layout, messages[-1], prompt)
    ids, starts = layout.encode(whole)
    before, before_starts = layout.encode(prompt)
    if ids[: len(before)] != before:
        after, after_starts = layout.encode(whole[len(prompt) :])
        length = len(layout.shown(prompt))
        ids, starts = before + after, before_starts + [length + start for start in after_starts]
    mask = _older(layout, prompt, starts, ids) if loss_on == "all" else [0] * len(ids)
    end = _end(layout.traits, tokenizer, ids, len(before), len(ids))
    mask[len(before) : end] = [1] * (end - len(before))
    return layout.shown(whole), ids, mask


def prompt_ids(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> list[int]:
    """Ids of the messages with the template's generation prompt."""
    layout = _lay_out(messages, tools, thinking, tokenizer)
    return layout.encode(layout.text(layout.messages, prompt=True))[0]


def ids_since(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> list[int] | None:
    """Ids of a prompt from the end of the last reply on; None where the template hides that."""
    layout = _lay_out(messages, tools, thinking, tokenizer)
    if not layout.traits.ends:
        return None
    # Where the template knows no results these were put together, so places are others.
    at = max(n for n, message in enumerate(layout.messages) if message["role"] == "assistant")
    probe = {"role": "assistant", "content": _PLACE}
    text = layout.text([*layout.messages[:at], probe, *layout.messages[at + 1 :]], prompt=True)
    if text.count(_PLACE) != 1:
        return None
    return layout.encode(text.partition(_PLACE)[2])[0]


def _older(layout: _Layout, text: str, starts: Sequence[int], ids: Sequence[int]) -> list[int]:
    """The mask of the older replies of `text`, those that stand there as they were generated."""
    mask = [0] * len(ids)
    for place, message in enumerate(layout.messages):
        if message["role"] != "assistant":
            continue
        before = layout.text(layout.messages[:place], prompt=True)
        after = _shown_turn(layout, text, place)
        if after.startswith(before):
            first, last = len(layout.shown(before)), len(layout.shown(after))
            inside = [n for n, start in enumerate(starts) if first <= start < last]
            if inside:
                end = _end(layout.traits, layout.tokenizer, ids, inside[0], inside[-1] + 1)
                mask[inside[0] : end] = [1] * (end - inside[0])
    return mask


def _shown_turn(layout: _Layout, text: str, place: int) -> str:
    """The start of `text` up to the end of an older reply, with its trace or without; "" if neither."""
    message = layout.messages[place]
    bare = {k: v for k, v in message.items() if k != layout.traits.trace_key}
    for shown in (message, bare):
        after = layout.text([*layout.messages[:place], shown], prompt=False)
        if text.startswith(after):
            return after
    return ""


def _end(traits: Traits, tokenizer: Any, ids: Sequence[int], first: int, last: int) -> int:
    """Behind the token that ends the reply in ids[first:last]."""
    for known in (set(traits.ends), set(tokenizer.all_special_ids)):
        found = [place for place in range(first, last) if ids[place] in known]
        if found:
            # A template may put a second mark of the end of text behind its own.
            own = [place for place in found if ids[place] == traits.ends[0]] if traits.ends else []
            return (own or found)[-1] + 1
    return last


def _reply(layout: _Layout, message: Message, prompt: str) -> str:
    """What the model generates after the prompt, as the template writes it, and the rest of the turn."""
    traits = layout.traits
    opened = prompt.rstrip().endswith(t.OPEN)
    on = opened or (layout.thinking and not prompt.rstrip().endswith(t.CLOSE))
    trace, answer = t.split_trace(message)
    bare = {k: v for k, v in message.items() if k not in (*t.TRACE_KEYS, "reasoning_cut")}
    last = _expressed(layout, {**bare, "content": answer})
    if last.get("tool_calls") and not traits.last_calls:
        last = _calls_in_content(layout, last)
    trace, close = layout.hide(trace) if on else "", traits.closes
    shown = last
    if message.get("reasoning_cut"):
        close = close[close.find(t.CLOSE) :]
    if trace and traits.trace_key and not message.get("reasoning_cut"):
        shown = {**last, traits.trace_key: trace}
    elif trace or (on and traits.writes_open):
        opening = "" if traits.writes_open else t.THINK_ON
        shown = {**last, "content": f"{opening}{trace}{close}{last['content']}"}
    whole = layout.text([*layout.messages, shown], prompt=False)
    if whole.startswith(prompt) and (trace in whole[len(prompt) :] or trace.strip() in whole):
        return whole[len(prompt) :]
    return (trace + close if opened else "") + _turn(layout, last, prompt)


def _turn(layout: _Layout, last: Message, prompt: str) -> str:
    """The last reply without its head, for a template whose prompt ends otherwise than its replies begin
    (one that opens a trace in the prompt and drops traces of replies)."""
    history = layout.text(layout.messages, prompt=False)
    probe = {"role": "assistant", "content": _PLACE}
    head = layout.text([*layout.messages, probe], prompt=False).rpartition(_PLACE)[0]
    whole = layout.text([*layout.messages, last], prompt=False)
    same = prompt.startswith(history) and head.startswith(history) and whole.startswith(head)
    told = prompt == head or prompt.rstrip().endswith((t.OPEN, t.CLOSE))
    if not same or not head or not told:
        raise UserError(
            "the tokenizer's chat template changes the prompt once the reply is there, so the loss "
            "mask cannot be told; use another template"
        )
    return whole[len(head) :]


def _calls_in_content(layout: _Layout, last: Message) -> Message:
    """The reply with its calls in its content, written as the template writes those of older turns."""
    traits = layout.traits
    content = {k: v for k, v in last.items() if k != "tool_calls"}
    if not traits.calls:
        return {**content, "content": t.with_calls(last["content"], last["tool_calls"])}
    user: Message = {"role": "user", "content": "q"}
    probe: Message = {"role": "assistant", "content": _PLACE}
    head, _, tail = layout.text([user, probe, user], prompt=False).partition(_PLACE)
    turn = layout.text([user, last, user], prompt=False)
    return {**content, "content": turn.removeprefix(head).removesuffix(tail)}


def _lay_out(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> _Layout:
    if not messages:
        raise UserError("a conversation without messages; give at least one")
    traits = traits_of(tokenizer)
    layout = _Layout([], None, thinking, tokenizer, traits)
    shown = [_expressed(layout, message) for message in messages]
    if not traits.tools and not traits.calls:
        shown = _as_text(shown)
    if tools and not traits.tools:
        block = t.tools_block(tools) + ("" if traits.calls else f"\n{_HOW_TO_CALL}")
        shown = _with_system(shown, layout.hide(block), gap=t.BLOCK_BEFORE)
    elif tools:
        layout.tools = [layout.hide(_in_shape(tool, traits.tool_shapes)) for tool in tools]
    if thinking in traits.keyword:
        shown = _with_system(shown, traits.keyword[thinking], gap="\n")
    layout.messages = shown
    return layout


def _expressed(layout: _Layout, message: Message) -> Message:
    """A fresh message as the template reads it."""
    traits, content = layout.traits, message.get("content")
    if message["role"] == "tool" and not isinstance(content, str | None):
        content = json.dumps(content, ensure_ascii=False)
    shown = {k: v for k, v in message.items() if k not in (*t.TRACE_KEYS, "reasoning_cut")}
    shown["content"] = layout.hide(t.content_of({**message, "content": content}))
    trace = next((message[key] for key in t.TRACE_KEYS if message.get(key)), None)
    if trace and traits.trace_key:
        shown[traits.trace_key] = layout.hide(trace)
    if calls := shown.pop("tool_calls", None):
        shown["tool_calls"] = [layout.hide(_call(call, traits)) for call in calls]
    return shown


def _call(call: dict[str, Any], traits: Traits) -> dict[str, Any]:
    """A call with its arguments as the template reads them: a mapping, or JSON text."""
    inner = call.get("function") or call
    arguments: Any = t.arguments_of(inner)
    if traits.arguments_as_text and not isinstance(inner.get("arguments"), str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif traits.arguments_as_text:
        arguments = inner["arguments"] or "{}"
    filled = {**inner, "arguments": arguments}
    whole = {**call, "function": filled} if call.get("function") else filled
    return _in_shape(whole, traits.call_shapes)


def _in_shape(value: dict[str, Any], shapes: frozenset[Any]) -> dict[str, Any]:
    """A tool or call in the shape it has, or in the only one that the template reads."""
    wrapped = bool(value.get("function"))
    if not shapes or ("wrapped" if wrapped else "bare") in shapes:
        return value
    return value["function"] if wrapped else shaped(value, "wrapped")


def _with_system(messages: list[Message], text: str, *, gap: str) -> list[Message]:
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    content = messages[0]["content"]
    first = {**messages[0], "content": f"{content}{gap}{text}" if content else text}
    return [first, *messages[1:]]


def _as_text(messages: Sequence[Message]) -> list[Message]:
    """Calls and results in our tags, for a template that knows neither."""
    return list(_texts(messages))


def _texts(messages: Sequence[Message]) -> Iterator[Message]:
    results: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            results.append(message["content"])
            if number + 1 == len(messages) or messages[number + 1]["role"] != "tool":
                yield {"role": "user", "content": t.tool_responses(results)}
                results = []
        else:
            content = t.with_calls(message["content"], message.get("tool_calls"))
            yield {**{k: v for k, v in message.items() if k != "tool_calls"}, "content": content}


__all__ = ["ids_since", "prompt_ids", "rendered"]
