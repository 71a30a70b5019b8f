"""The one reader of replies for every family of models: what a tokenizer's own template says of traces and
of how tool calls are written, and a reply's calls in our syntax. RL and evaluations both read by it.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from workbench.chat import template as t
from workbench.chat.calls import read_call
from workbench.chat.parsing import Reply, parse
from workbench.chat.tokens import format_of

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
        # Calls that a trace only considers are not calls.
        trace, close, answer = text.rpartition(t.CLOSE)
        found, rest = _READ[self.calls](answer)
        if found is None:
            return text
        return f"{trace}{close}{t.with_calls(rest, found)}"

    def read(self, text: str, *, opened: bool) -> Reply:
        """A reply to train on. opened: its prompt's ids end inside a trace.

        Calls of another family count as they are written. Those of our own syntax count only where they
        are in order: a policy is taught the syntax itself, while evaluations are as lenient as the
        model's own server (`normal`).
        """
        normal = text if self.calls == "nano-v2" else self.normal(text, asked=opened)
        return parse(normal, thinking=opened)

    def lenient(self, text: str, *, asked: bool) -> tuple[str, Reply]:
        """The reply in our one syntax (`normal`), and parsed as its prompt ended."""
        normal = self.normal(text, asked=asked)
        return normal, parse(normal, thinking=self.thought(normal, asked=asked))


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
    return _all_calls(items), text[: found.start()].strip()


def _hermes(text: str) -> tuple[list[dict[str, Any]] | None, str]:
    calls = _all_calls([t.read_json(block) for block in _HERMES.findall(text)])
    return calls, _HERMES.sub("", text).strip()


def _mistral(text: str) -> tuple[list[dict[str, Any]] | None, str]:
    found = _MISTRAL.search(text)
    if found is None:
        return None, text
    return _all_calls(t.read_json(found[1])), text[: found.start()].strip()


_READ = {"nano-v2": _nano_v2, "hermes": _hermes, "mistral": _mistral}


def _all_calls(items: Any) -> list[dict[str, Any]] | None:
    """Every item as a call; None where there is none, or one cannot be read."""
    if not isinstance(items, list) or not items:
        return None
    calls = [read_call(item, keys=("arguments", "parameters")) for item in items]
    return None if None in calls else [call for call in calls if call is not None]
