"""Any other model keeps its own chat template; here are its ids and its loss mask.

What a template cannot express is put into text: the trace as `<think>` in the last reply's content,
tools as our block in the system message, calls and results in our tags. `/think` keywords are left
alone: they mean something only to the models that know them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.chat import template as t
from workbench.chat.tokens import encoder_of
from workbench.conversation import Message
from workbench.errors import UserError

Run = tuple[list[int], int]
"""Ids that are tokenized on their own, and their loss (0 or 1)."""

_HOW_TO_CALL = (
    'To use tools, answer with <TOOLCALL>[{"name": "...", "arguments": {...}}]</TOOLCALL> only.'
)
# Private-use characters around the place of a message whose content spells a special token.
_MARK = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class _Layout:
    """Messages as the template gets them; `hidden` are contents behind a mark."""

    messages: list[Message]
    hidden: dict[int, str]
    tools: list[dict[str, Any]] | None
    thinking: bool
    tokenizer: Any

    def text(self, count: int, *, prompt: bool) -> str:
        """The template's text of the first `count` messages, marks included."""
        from jinja2 import TemplateError  # noqa: PLC0415 - only other models' templates need it

        try:
            text: str = self.tokenizer.apply_chat_template(
                self.messages[:count],
                tools=self.tools,
                tokenize=False,
                add_generation_prompt=prompt,
                enable_thinking=self.thinking,
            )
        except TemplateError as error:
            raise UserError(
                f"the model's chat template refuses the conversation: {error}"
            ) from None
        return text

    def shown(self, text: str) -> str:
        """The text with the hidden contents back in place."""
        return _MARK.sub(lambda mark: self.hidden[int(mark[1])], text)

    def ids(self, text: str) -> list[int]:
        """Ids in which the template's special tokens are special and contents are ordinary text."""
        ids: list[int] = []
        for number, part in enumerate(_MARK.split(text)):
            if number % 2:
                ids += encoder_of(self.tokenizer).runs([self.hidden[int(part)]])[0]
            elif part:
                ids += self.tokenizer.encode(part, add_special_tokens=False)
        return ids


def pieces(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
    loss_on: str,
) -> tuple[str, list[Run]]:
    """The text of a conversation, and its runs.

    A reply's span is what the template adds to the prompt before it, up to and including the token
    that ends the turn. Raises: UserError where the template changes the prompt once the last reply is
    there, so that its span cannot be told. Older turns that it rewrites carry no loss.
    """
    layout = _lay_out(messages, tools, thinking, tokenizer)
    count = len(layout.messages)
    whole = layout.text(count, prompt=False)
    if layout.messages[-1]["role"] != "assistant":
        return layout.shown(whole), list(_runs(layout, whole, count, loss=int(loss_on == "all")))
    prompt = layout.text(count - 1, prompt=True)
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template changes the prompt once the reply is there, so the loss "
            "mask cannot be told; use another template"
        )
    runs = list(_runs(layout, prompt, count - 1, loss=int(loss_on == "all")))
    runs += _reply_runs(layout, whole[len(prompt) :], loss=1)
    return layout.shown(whole), runs


def prompt_ids(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> list[int]:
    """Ids of the messages with the template's generation prompt."""
    # With a stand-in reply every message is history, as it will be once the real reply is there.
    stand_in: Message = {"role": "assistant", "content": ""}
    layout = _lay_out([*messages, stand_in], tools, thinking, tokenizer)
    count = len(layout.messages) - 1
    text = layout.text(count, prompt=True)
    return [token for run, _ in _runs(layout, text, count, loss=0) for token in run]


def _runs(layout: _Layout, text: str, count: int, *, loss: int) -> Iterator[Run]:
    """`text`, which shows the first `count` messages, cut where each earlier reply was generated."""
    done = 0
    for place in range(count):
        if layout.messages[place]["role"] == "assistant":
            before = layout.text(place, prompt=True)
            after = layout.text(place + 1, prompt=False)
            if text.startswith(after) and after.startswith(before):
                yield layout.ids(text[done : len(before)]), 0
                yield from _reply_runs(layout, text[len(before) : len(after)], loss=loss)
                done = len(after)
    yield layout.ids(text[done:]), 0


def _reply_runs(layout: _Layout, text: str, *, loss: int) -> Iterator[Run]:
    ids = layout.ids(text)
    eos, special = layout.tokenizer.eos_token_id, set(layout.tokenizer.all_special_ids)
    ends = [n for n, token in enumerate(ids, 1) if token == eos]
    ends = ends or [n for n, token in enumerate(ids, 1) if token in special] or [len(ids)]
    yield ids[: ends[-1]], loss
    yield ids[ends[-1] :], 0


def _lay_out(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
    tokenizer: Any,
) -> _Layout:
    if not messages:
        raise UserError("a conversation without messages; give at least one")
    own_tools = "tools" in tokenizer.chat_template
    shown = [
        _expressed(message, last=place == len(messages) - 1, thinking=thinking, tokenizer=tokenizer)
        for place, message in enumerate(messages)
    ]
    if not own_tools:
        shown = _with_tools_as_text(shown, tools)
    hidden = {}
    for place, message in enumerate(shown):
        content = message["content"]
        if "\ue000" in content or any(token in content for token in tokenizer.all_special_tokens):
            hidden[place] = content
            message["content"] = f"\ue000{place}\ue001"
    kept = list(tools) if tools and own_tools else None
    return _Layout(shown, hidden, kept, thinking, tokenizer)


def _expressed(message: Message, *, last: bool, thinking: bool, tokenizer: Any) -> Message:
    """A fresh message whose trace stands where the template shows it."""
    content = message.get("content")
    if message["role"] == "tool" and not isinstance(content, str | type(None)):
        content = json.dumps(content, ensure_ascii=False)
    shown = {**message, "content": t.content_of({**message, "content": content})}
    trace = shown.pop("reasoning_content", None)
    before = "" if shown.pop("reasoning_cut", False) else t.CLOSE_BEFORE
    if not (trace and last and thinking):
        return shown
    if "reasoning_content" in tokenizer.chat_template:
        return {**shown, "reasoning_content": trace}
    close = before + t.CLOSE + t.CLOSE_AFTER
    return {**shown, "content": f"{t.THINK_ON}{trace}{close}{shown['content']}"}


def _with_tools_as_text(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
) -> list[Message]:
    out: list[Message] = []
    results: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            results.append(message["content"])
            if number + 1 == len(messages) or messages[number + 1]["role"] != "tool":
                out.append({"role": "user", "content": t.tool_responses(results)})
                results = []
        else:
            content = t.with_calls(message["content"], message.get("tool_calls"))
            extra = {k: v for k, v in message.items() if k != "tool_calls"}
            out.append({**extra, "content": content})
    if tools:
        block = f"{t.tools_block(tools)}\n{_HOW_TO_CALL}"
        if out[0]["role"] == "system":
            out[0]["content"] += t.BLOCK_BEFORE + block
        else:
            out.insert(0, {"role": "system", "content": block})
    return out
