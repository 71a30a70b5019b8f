"""What a model's own template says: whether it thinks, and how its tool calls are written."""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from workbench.chat import format_of, parse
from workbench.chat import template as t

Calls = Literal["nano-v2", "hermes", "mistral"]
_NANO_V2 = re.compile(f"{t.CALL_OPEN}(.*?){t.CALL_CLOSE}", re.DOTALL)
_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
# Mistral's mark is a special token, which an engine's text leaves out.
_MISTRAL = re.compile(r"(?:\[TOOL_CALLS\]|\A)\s*(\[\s*\{.*\])\s*$", re.DOTALL)


@dataclass(frozen=True)
class ReplyFormat:
    """thinks: the template has a reasoning mode. opens: its prompt ends inside the trace (else the
    model opens it, or does not). calls: the syntax of tool calls."""

    thinks: bool = True
    opens: bool = True
    calls: Calls = "nano-v2"

    def thinking(self, wanted: bool) -> bool:
        """Whether a prompt opens a trace: never where the template knows none."""
        return wanted and self.thinks

    def thought(self, text: str, *, asked: bool) -> bool:
        """Whether a reply to such a prompt begins with a trace."""
        if not self.thinking(asked) or self.opens:
            return self.thinking(asked)
        return t.CLOSE in text or text.lstrip().startswith(t.OPEN)

    def normal(self, text: str, *, asked: bool = False) -> str:
        """The reply, to a prompt that asked for a trace or not, with its tool calls, if they can be
        read, in our one syntax at the end."""
        if self.thinking(asked) and self.opens and t.CLOSE not in text:
            return text  # an unfinished trace
        # Calls that a trace only considers are no calls.
        trace, close, answer = text.rpartition(t.CLOSE)
        found, rest = _READ[self.calls](answer)
        if found is None:
            return text
        return f"{trace}{close}{t.with_calls(rest, found)}"


def reply_format(tokenizer: Any) -> ReplyFormat:
    """The format that a tokenizer's template asks for."""
    if format_of(tokenizer) == "nano-v2":
        return ReplyFormat()
    template = str(tokenizer.chat_template)
    thinks = "<think>" in template or "enable_thinking" in template
    opens = thinks and _prompt(tokenizer).rstrip().endswith(t.OPEN)
    if "<tool_call>" in template:
        return ReplyFormat(thinks, opens, "hermes")
    return ReplyFormat(thinks, opens, "mistral" if "[TOOL_CALLS]" in template else "nano-v2")


def _prompt(tokenizer: Any) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True
    )
    return text


def _nano_v2(text: str) -> tuple[list[dict[str, Any]] | None, str]:
    """As the model's own parser for vLLM (nemotron_json) reads them: the first block, whatever follows
    it, with or without the list's brackets. Text that is in order stays as it is."""
    found = _NANO_V2.search(text)
    if found is None or (text.count(t.CALL_OPEN) == 1 and parse(text, thinking=False).tool_calls):
        return None, text
    body = found[1].strip()
    body = f"{'' if body.startswith('[') else '['}{body}{'' if body.endswith(']') else ']'}"
    items = t.read_json(body)
    calls = [_call(json.dumps(item)) for item in items] if isinstance(items, list) else []
    if not calls or None in calls:
        return None, text
    return [call for call in calls if call is not None], text[: found.start()].strip()


def _hermes(text: str) -> tuple[list[dict[str, Any]] | None, str]:
    blocks = _HERMES.findall(text)
    calls = [_call(block) for block in blocks]
    if not blocks or None in calls:
        return None, text
    return [call for call in calls if call is not None], _HERMES.sub("", text).strip()


def _mistral(text: str) -> tuple[list[dict[str, Any]] | None, str]:
    found = _MISTRAL.search(text)
    if found is None:
        return None, text
    try:
        items = json.loads(found[1])
    except ValueError:
        return None, text
    calls = [_call(json.dumps(item)) for item in items]
    if None in calls:
        return None, text
    return [call for call in calls if call is not None], text[: found.start()].strip()


_READ = {"nano-v2": _nano_v2, "hermes": _hermes, "mistral": _mistral}


def _call(block: str) -> dict[str, Any] | None:
    try:
        item = json.loads(block)
    except ValueError:
        return None
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return {"name": item["name"], "arguments": arguments}
