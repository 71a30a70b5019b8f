"""What a checkpoint's own chat template does, learned by asking it: no template is known by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from workbench.chat import template as t
from workbench.conversation import Message
from workbench.errors import UserError, reason_of

Shape = Literal["bare", "wrapped"]

# A word that no template writes; it shows what a template does with the place where it stands.
_PROBE, _ARGUMENT = "zqprobe", "zqvalue"
_USER: Message = {"role": "user", "content": "zquser"}
_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True)
class Traits:
    """What a template does.

    switch: the argument that turns reasoning on and off; None where there is none. keyword: what to
    write into the system message to turn it off (on) where only words do. trace_key: where the trace of
    a message is read from. closes: what stands between a trace and its answer. writes_open: `<think>`
    is put before the last reply's content. tools, calls, last_calls: whether tools, the calls of an
    older and of the last reply are shown. tool_shapes, call_shapes: `{name, ...}` bare, or wrapped as
    {"function": ...}. arguments_as_text: calls must bring JSON text, else a mapping. ends: ids that end
    a reply.
    """

    switch: str | None
    keyword: dict[bool, str]
    trace_key: str | None
    closes: str
    writes_open: bool
    tools: bool
    tool_shapes: frozenset[Shape]
    calls: bool
    call_shapes: frozenset[Shape]
    last_calls: bool
    arguments_as_text: bool
    ends: tuple[int, ...]
    special: re.Pattern[str]


def apply(
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    *,
    prompt: bool = False,
    **arguments: Any,
) -> str:
    """The template's text of a conversation. Raises: UserError where it refuses it."""
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=prompt,
            **arguments,
        )
    except Exception as error:  # noqa: BLE001
        # A template is a program of somebody else's: whatever it raises is its refusal.
        reason = reason_of(error)
        raise UserError(f"the model's chat template refuses the conversation: {reason}") from None
    return text


_KNOWN: WeakKeyDictionary[Any, tuple[str, int, Traits]] = WeakKeyDictionary()


def traits_of(tokenizer: Any) -> Traits:
    """The template's traits, found once for each template."""
    template = str(tokenizer.chat_template)
    known = _KNOWN.get(tokenizer)
    if known is None or known[:2] != (template, len(tokenizer)):
        known = _KNOWN[tokenizer] = (template, len(tokenizer), _Probe(tokenizer).traits())
    return known[2]


def special_tokens(tokenizer: Any) -> set[str]:
    """The texts that the tokenizer reads as one control token; the think tags are text."""
    added = tokenizer.added_tokens_decoder.values()
    return {a.content for a in added if a.special} - {t.OPEN, t.CLOSE}


class _Probe:
    """Small conversations, and what the template makes of them; "" where it refuses one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        every = sorted(special_tokens(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, every)) or r"(?!)")

    def traits(self) -> Traits:
        switch = next((name for name in _SWITCHES if self._reacts(name)), None)
        key = next((k for k in t.TRACE_KEYS if _PROBE in self._reply(**{k: _PROBE})), None)
        tool_shapes = frozenset(s for s in _SHAPES if _PROBE in self._tool(s))
        shapes, as_text = self._calls()
        last = bool(shapes) and self._shows(self._call(_first(shapes), as_text, last=True), as_text)
        return Traits(
            switch=switch,
            keyword={} if switch else self._keyword(),
            trace_key=key,
            closes=self._between(key),
            writes_open=self._reply(content=_PROBE).partition(_PROBE)[0].rstrip().endswith(t.OPEN),
            tools=bool(tool_shapes),
            tool_shapes=tool_shapes,
            calls=bool(shapes),
            call_shapes=shapes,
            last_calls=last,
            arguments_as_text=as_text,
            ends=self._ends(shapes if last else frozenset(), as_text),
            special=self._special,
        )

    def _text(self, messages: Sequence[Message], *tools: Any, **arguments: Any) -> str:
        try:
            return apply(self._tokenizer, messages, tools, **arguments)
        except UserError:
            return ""

    def _reply(self, **fields: Any) -> str:
        reply = {"role": "assistant", "content": "zqanswer", **fields}
        return self._text([_USER, reply], **dict.fromkeys(_SWITCHES, True))

    def _reacts(self, name: str) -> bool:
        on, off = (self._text([_USER], prompt=True, **{name: on}) for on in (True, False))
        return on != off

    def _keyword(self) -> dict[bool, str]:
        """The word that changes the generation prompt from what it is without any."""

        def ending(word: str) -> str:
            system: Message = {"role": "system", "content": word}
            return self._text([system, _USER], prompt=True).rpartition(_USER["content"])[2]

        plain = ending("zqsystem")
        words = {True: t.KEYWORD_ON, False: t.KEYWORD_OFF}
        return {on: word for on, word in words.items() if ending(word) not in ("", plain)}

    def _between(self, key: str | None) -> str:
        usual = t.CLOSE_BEFORE + t.CLOSE + t.CLOSE_AFTER
        if key is None:
            return usual
        between = self._reply(**{key: _PROBE}).partition(_PROBE)[2].partition("zqanswer")[0]
        return between if t.CLOSE in between else usual

    def _tool(self, shape: Shape) -> str:
        schema = {
            "name": _PROBE,
            "description": "d",
            "parameters": {"type": "object", "properties": {"zqkey": {"type": "string"}}},
        }
        return self._text([_USER], shaped(schema, shape), prompt=True)

    def _call(self, shape: Shape, as_text: bool, *, last: bool) -> str:
        value = f'{{"zqkey": "{_ARGUMENT}"}}' if as_text else {"zqkey": _ARGUMENT}
        call = shaped({"name": _PROBE, "arguments": value}, shape)
        reply = {"role": "assistant", "content": "", "tool_calls": [{"id": "callzq001", **call}]}
        result = {"role": "tool", "name": _PROBE, "tool_call_id": "callzq001", "content": "1"}
        return self._text([_USER, reply, *([] if last else [result, _USER])])

    def _shows(self, text: str, as_text: bool) -> bool:
        # A mapping written as Python does, or a text encoded twice, is not JSON.
        wrong = '\\"zqkey' if as_text else "{'zqkey"
        return _PROBE in text and _ARGUMENT in text and wrong not in text

    def _calls(self) -> tuple[frozenset[Shape], bool]:
        for as_text in (False, True):
            shown = [s for s in _SHAPES if self._shows(self._call(s, as_text, last=False), as_text)]
            if shown:
                return frozenset(shown), as_text
        # (a template that shows no arguments at all still shows which tool is called)
        named = [s for s in _SHAPES if _PROBE in self._call(s, as_text=False, last=False)]
        return frozenset(named), False

    def _ends(self, shapes: frozenset[Shape], as_text: bool) -> tuple[int, ...]:
        # A template that leaves the last turn open still shows what ends an older one.
        older = self._text([_USER, {"role": "assistant", "content": _PROBE}, _USER])
        tails = (text.partition(_PROBE)[2] for text in (self._reply(content=_PROBE), older))
        found = next(filter(None, map(self._special.search, tails)), None)
        ends = [found[0]] if found else []
        if shapes:
            tail = self._call(_first(shapes), as_text, last=True).rpartition(_ARGUMENT)[2]
            after = self._special.findall(tail)
            # Marks of the call itself may be special tokens too; the turn ends with the last.
            ends += after[-1:] if after and not set(ends) & set(after) else []
        eos = self._tokenizer.eos_token_id
        ids = [self._tokenizer.convert_tokens_to_ids(end) for end in ends]
        return tuple(dict.fromkeys([*ids, *([] if eos is None else [int(eos)])]))


_SHAPES: tuple[Shape, ...] = ("bare", "wrapped")


def _first(shapes: frozenset[Shape]) -> Shape:
    return "wrapped" if "wrapped" in shapes else "bare"


def shaped(inner: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """A tool or a call in one of the two shapes."""
    return inner if shape == "bare" else {"type": "function", "function": inner}
