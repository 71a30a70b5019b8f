"""How reasoning is switched on a served model: found out, carried out, and checked in the reply."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.endpoint import ChatClient, Said
from workbench.chat import template as t
from workbench.served import SWITCHES, SwitchName

_ASKED = "Say one word about the sea."
_LAST = "sea."
# Servers that spell out no prompt: models whose cards say that the system message switches.
_BY_SYSTEM = re.compile(r"nemotron.*nano.*v2", re.IGNORECASE)


def with_word(messages: Sequence[Mapping[str, Any]], word: str) -> list[dict[str, Any]]:
    """The messages with a word at the end of the system message; as they are without one."""
    made = [dict(message) for message in messages]
    if not word:
        return made
    if made and made[0]["role"] == "system":
        made[0]["content"] = f"{made[0].get('content') or ''}\n{word}".strip()
    else:
        made.insert(0, {"role": "system", "content": word})
    return made


def find_switch(client: ChatClient) -> SwitchName:
    """The way in which the served model's own template is switched: what the prompt ends with differs
    between on and off. Asks /tokenize alone; "none" where that does not tell."""
    ways: tuple[SwitchName, ...] = ("system", "template")
    for name in ways:
        on, off = (_end(client, name, thinking) for thinking in (True, False))
        if on is None or off is None:
            return "system" if _BY_SYSTEM.search(client.model) else "none"
        if on != off:
            return name
    return "none"


def _end(client: ChatClient, name: SwitchName, thinking: bool) -> str | None:
    """What a prompt ends with, behind the user's last word."""
    both = SWITCHES[name]
    switch = both.on if thinking else both.off
    messages = with_word([{"role": "user", "content": _ASKED}], switch.system)
    tokens = client.prompt_tokens(messages, **switch.keys())
    return None if tokens is None else "".join(tokens).rpartition(_LAST)[2]


def thought_anyway(said: Said) -> str:
    """Why a reply cannot count where no reasoning was wanted; "" where there is none in it. An empty
    pair of tags is none."""
    inside = said.trace or said.answer.rpartition(t.CLOSE)[0].replace(t.OPEN, "")
    if not inside.strip() and not said.trace_tokens and not _opened(said.answer):
        return ""
    size = f" ({said.trace_tokens:,} tokens)" if said.trace_tokens else ""
    return (
        f"the model thought{size} although it was asked not to; say in models.NAME.thinking how it is "
        "switched off (docs/guides/endpoints.md)"
    )


def _opened(answer: str) -> bool:
    """Whether a reply ends inside a trace that it opened itself."""
    return answer.lstrip().startswith(t.OPEN) and t.CLOSE not in answer
