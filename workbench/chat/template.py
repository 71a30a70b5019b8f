"""The texts of the chat format of Nemotron Nano v2 (facts: model card), and the same as Jinja.

    <SPECIAL_10>System\\n{system}\\n\\n{tools}\\n
    <SPECIAL_11>User\\n{text}\\n
    <SPECIAL_11>Assistant\\n<think>\\n{reasoning}\\n</think>\\n\\n{answer}\\n<SPECIAL_12>\\n

With reasoning off the assistant's prefix is `<think></think>` and the answer follows at once. Older
assistant turns are `Assistant\\n{answer}\\n`. Text is kept exactly, outer white space included; only a
turn from which a `/think` keyword was removed is stripped. The system turn always stands, empty or not.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from workbench.conversation import Message
from workbench.errors import UserError

SYSTEM, TURN, END = "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"
SPECIAL_TOKENS = (SYSTEM, TURN, END)
OPEN, CLOSE = "<think>", "</think>"
THINK_ON, THINK_OFF = "<think>\n", "<think></think>"
# What stands between reasoning, tag and answer; the public client closes with "\n</think>\n\n" too.
CLOSE_BEFORE, CLOSE_AFTER = "\n", "\n\n"
KEYWORD_ON, KEYWORD_OFF = "/think", "/no_think"
CALL_OPEN, CALL_CLOSE = "<TOOLCALL>", "</TOOLCALL>"
TOOLS_OPEN, TOOLS_CLOSE = "<AVAILABLE_TOOLS>", "</AVAILABLE_TOOLS>"
RESPONSE_OPEN, RESPONSE_CLOSE = "<TOOL_RESPONSE>[", "]</TOOL_RESPONSE>"
TRACE_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Where messages of the ecosystem carry a trace; ours is the first."""
BLOCK_BEFORE = "\n\n"
"""Between system text and the tool list."""
CALLS_BEFORE = "\n"
"""Between an answer and its tool calls."""

# Inside the JSON of a block their `<` is written as an escape: no value can end its block early.
_TAGS = (
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<AVAILABLE_TOOLS>",
    "</AVAILABLE_TOOLS>",
    "<TOOL_RESPONSE>",
    "</TOOL_RESPONSE>",
    "<think>",
    "</think>",
)


def dump_json(value: Any) -> str:
    """JSON as in every block of the format: one line, Unicode kept, the format's tags escaped."""
    return escape_tags(json.dumps(value, ensure_ascii=False))


def escape_tags(text: str) -> str:
    """Write the format's tags inside JSON text so that they decode to themselves but are not tags."""
    if "<" in text:
        for tag in _TAGS:
            text = text.replace(tag, "\\u003c" + tag[1:])
    return text


def tools_block(tools: Sequence[dict[str, Any]] | None) -> str:
    """`<AVAILABLE_TOOLS>[...]</AVAILABLE_TOOLS>`; empty without tools.

    A tool is a function schema {name, description, parameters}, bare or wrapped as
    {"type": "function", "function": ...}; the wrapping is dropped.
    """
    if not tools:
        return ""
    shown = ", ".join(dump_json(tool.get("function", tool)) for tool in tools)
    return f"{TOOLS_OPEN}[{shown}]{TOOLS_CLOSE}"


def tool_calls_block(calls: Sequence[dict[str, Any]] | None) -> str:
    """`<TOOLCALL>[{"name": ..., "arguments": ...}]</TOOLCALL>`; empty without calls.

    A call is {name, arguments}, bare or wrapped as {"function": ...}; arguments are a mapping or JSON
    text. Raises: UserError where a call has no name, or its arguments are not a JSON object.
    """
    if not calls:
        return ""
    return f"{CALL_OPEN}[{', '.join(_call_text(call) for call in calls)}]{CALL_CLOSE}"


def _call_text(call: dict[str, Any]) -> str:
    inner = call.get("function") or call
    name = inner.get("name")
    if not isinstance(name, str):
        raise UserError(f"tool call {call!r} has no name; write {{name, arguments}}")
    arguments, text = arguments_of(inner), inner.get("arguments")
    if not isinstance(text, str) or not text.strip():
        text = json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {dump_json(name)}, "arguments": {escape_tags(text)}}}'


def arguments_of(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a bare call as a mapping; none, null and blank text are a call without any.

    Raises: UserError where they are neither a mapping nor the JSON text of one.
    """
    arguments = value = call.get("arguments")
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        value = read_json(value)
    if not isinstance(value, dict):
        raise UserError(
            f"tool call {call.get('name')!r}: arguments {arguments!r} are not a JSON object; give a "
            "mapping or the JSON text of one"
        )
    return value


def with_calls(answer: str, calls: Sequence[dict[str, Any]] | None) -> str:
    """An answer followed by its tool calls."""
    block = tool_calls_block(calls)
    return f"{answer}{CALLS_BEFORE}{block}" if answer and block else answer + block


def tool_responses(contents: Iterable[Any]) -> str:
    """The user turn with the results of consecutive tool messages.

    A result that is JSON text of an object or list stands as it is; any other text as a JSON string.
    """
    return f"{RESPONSE_OPEN}{', '.join(_response_text(c) for c in contents)}{RESPONSE_CLOSE}"


def _response_text(content: Any) -> str:
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    ends = content[:1] + content[-1:]
    raw = ends in ("{}", "[]") and "</TOOL_RESPONSE>" not in content
    if raw and isinstance(read_json(content), dict | list):
        return str(content)
    return dump_json(content)


def read_json(text: str) -> Any:
    """The value of a JSON text, None where it is none. Never raises (NaN and Infinity are not JSON)."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def thinking_mode(messages: Sequence[Message], default: bool) -> bool:
    """Whether the last `/think` or `/no_think` of system and user turns says on or off."""
    on = default
    for message in messages:
        if message["role"] in ("system", "user"):
            # `</think>` spells the keyword too, and is none.
            text = content_of(message).replace(CLOSE, "\n")
            last_on, last_off = text.rfind(KEYWORD_ON), text.rfind(KEYWORD_OFF)
            on = last_on > last_off if last_on != last_off else on
    return on


def without_keywords(text: str) -> str:
    """The text without `/think` and `/no_think`, stripped where there was one."""
    if "think" not in text:
        return text
    parts = text.split(CLOSE)
    shown = CLOSE.join(p.replace(KEYWORD_OFF, "").replace(KEYWORD_ON, "") for p in parts)
    return shown if shown == text else shown.strip()


def content_of(message: Message) -> str:
    """The text of a message; a missing or null content is empty."""
    content = message.get("content")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise UserError(
            f"content of a {message['role']} message is a {type(content).__name__}; it must be text"
        )
    return content


def split_trace(message: Message) -> tuple[str, str]:
    """Reasoning and answer of an assistant message; reasoning may also stand in the content.

    Content `<think>\\n{reasoning}\\n</think>\\n\\n{answer}` without `reasoning_content` is split.
    """
    content = content_of(message)
    trace = next((message[key] for key in TRACE_KEYS if message.get(key)), "")
    if not trace and CLOSE in content:
        before, _, after = content.partition(CLOSE)
        trace = before.removeprefix(OPEN).removeprefix("\n").removesuffix(CLOSE_BEFORE)
        return trace, after.lstrip("\n")
    if CLOSE in trace:
        raise UserError(
            f"reasoning_content holds {CLOSE}, which ends a trace: {trace[:60]!r}; remove the tag "
            "or drop the sample"
        )
    return trace, content


def chat_template() -> str:
    """The same format as a Jinja template, for `tokenizer.chat_template` and `vllm serve`.

    Reasoning is switched by `enable_thinking` (default true). It differs from `render` in one place: a
    tool result that looks like JSON from its first and last character but is not stays unquoted.
    """
    lines = "".join(line.strip() for line in _JINJA.splitlines())
    return lines.replace("@TAGS@", repr(list(_TAGS)))


_JINJA = r"""
{%- macro safe(text) -%}{%- set ns = namespace(t=text) -%}
{%- for tag in @TAGS@ -%}{%- set ns.t = ns.t.replace(tag, '\\u003c' + tag[1:]) -%}{%- endfor -%}
{{- ns.t -}}{%- endmacro -%}
{%- macro clean(text) -%}{%- set ns = namespace(parts=[]) -%}
{%- for p in text.split('</think>') -%}
{%- set ns.parts = ns.parts + [p.replace('/no_think', '').replace('/think', '')] -%}
{%- endfor -%}
{%- set shown = ns.parts | join('</think>') -%}
{{- shown if shown == text else shown.strip() -}}{%- endmacro -%}
{%- macro calls(m) -%}{%- if m.tool_calls -%}
{{- ('\n' if m.content else '') + '<TOOLCALL>[' -}}
{%- for c in m.tool_calls -%}{%- set f = c.function if c.function else c -%}
{%- set a = f.arguments if f.arguments is string else ((f.arguments or {}) | tojson) -%}
{{- '{"name": ' + safe(f.name | tojson) + ', "arguments": ' + safe(a) + '}' -}}
{{- '' if loop.last else ', ' -}}
{%- endfor -%}{{- ']</TOOLCALL>' -}}{%- endif -%}{%- endmacro -%}
{%- macro result(c) -%}{%- set t = c if c is string else (c | tojson) -%}
{%- if (t[:1] + t[-1:]) in ['{}', '[]'] and '</TOOL_RESPONSE>' not in t -%}{{- t -}}
{%- else -%}{{- safe(t | tojson) -}}{%- endif -%}{%- endmacro -%}
{%- set ns = namespace(on=(enable_thinking if enable_thinking is defined else true), sys='') -%}
{%- for m in messages -%}{%- if m.role in ['system', 'user'] -%}
{%- set t = (m.content or '').replace('</think>', '\n') -%}
{%- set yes = t.rfind('/think') -%}{%- set no = t.rfind('/no_think') -%}
{%- if yes != no -%}{%- set ns.on = yes > no -%}{%- endif -%}
{%- endif -%}{%- endfor -%}
{%- if messages and messages[0].role == 'system' -%}
{%- set ns.sys = clean(messages[0].content or '') -%}{%- endif -%}
{{- '<SPECIAL_10>System\n' + ns.sys -}}
{%- if tools -%}{{- ('\n\n' if ns.sys else '') + '<AVAILABLE_TOOLS>[' -}}
{%- for f in tools -%}{{- safe((f.function if f.function else f) | tojson) -}}
{{- '' if loop.last else ', ' -}}{%- endfor -%}{{- ']</AVAILABLE_TOOLS>' -}}{%- endif -%}
{{- '\n' -}}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{- '<SPECIAL_11>User\n' + clean(m.content or '') + '\n' -}}
{%- elif m.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}
{{- '<SPECIAL_11>User\n<TOOL_RESPONSE>[' -}}{%- else -%}{{- ', ' -}}{%- endif -%}
{{- result(m.content if m.content is not none else '') -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- ']</TOOL_RESPONSE>\n' -}}{%- endif -%}
{%- elif m.role == 'assistant' -%}
{{- '<SPECIAL_11>Assistant\n' -}}{%- set c = m.content or '' -%}
{%- set inline = '</think>' in c and not m.reasoning_content -%}
{%- set rest = c.split('</think>', 1)[-1] if loop.last else c.split('</think>')[-1] -%}
{%- if inline or (not loop.last and '</think>' in c) -%}
{%- set c2 = rest.lstrip('\n') -%}{%- else -%}{%- set c2 = c -%}{%- endif -%}
{%- if loop.last and not add_generation_prompt -%}
{%- if ns.on -%}
{%- set r = c.split('</think>', 1)[0] if inline else (m.reasoning_content or '') -%}
{%- if inline -%}{%- set r = r[7:] if r.startswith('<think>') else r -%}
{%- set r = r[1:] if r.startswith('\n') else r -%}
{%- set r = r[:-1] if r.endswith('\n') else r -%}{%- endif -%}
{{- '<think>\n' + r + '\n</think>\n\n' -}}
{%- else -%}{{- '<think></think>' -}}{%- endif -%}
{%- endif -%}
{{- c2 + calls({'content': c2, 'tool_calls': m.tool_calls}) + '\n<SPECIAL_12>\n' -}}
{%- elif m.role != 'system' or not loop.first -%}
{{- raise_exception('role ' + m.role + ' is not allowed here') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<SPECIAL_11>Assistant\n' + ('<think>\n' if ns.on else '<think></think>') -}}
{%- endif -%}
"""
