"""What can be known of a served model: its entry in the server's list, and a few greedy replies.

Another checkpoint behind the same address and name is another model. What is looked at here is in
the key of every sample, so its replies are not taken for those of the earlier one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.endpoint import ChatClient, Said
from evals.switches import with_word
from workbench.chat import template as t
from workbench.served import Switch

_FIELDS = ("id", "created", "root", "max_model_len", "owned_by")
# Short, so that they cost nothing; of three kinds, so that a little more training shows in one.
_PROBES = (
    "Write one sentence about the sea.",
    "What is 17 times 23?",
    "List three colours and say why you chose them.",
)
_PROBE_TOKENS = 32
_CLOCK_S = 1.1
_LONGEST_REPLY = 400  # characters; some servers read no limit of tokens


@dataclass(frozen=True)
class ProbedServer:
    """entry: what the server's list says of the model; replies: to the probes. None: nothing.
    opens: whether prompts that ask for reasoning end inside a trace that replies go on with as text;
    None where the replies did not show it.
    """

    entry: dict[str, Any] | None
    replies: tuple[str, ...] | None
    opens: bool | None

    @property
    def known_by(self) -> str:
        """What tells this model from another under its name."""
        known = ["its entry in /models"] if self.entry else []
        known += ["greedy replies"] if self.replies else []
        return " and ".join(known) or "address and name alone: another checkpoint would not show"


def look_at(client: ChatClient, on: Switch) -> ProbedServer:
    """Ask the server about its model. A few requests of a few tokens; nothing that it refuses is an
    error. on: what switches reasoning on."""
    started, entry = time.monotonic(), client.entry()
    said: list[Said] = []
    for text in _PROBES:
        said.append(_asked(client, text, on))
        if said[-1].finish_reason == "error":
            break  # a server that hangs is waited for once, not for each
    whole = said[-1].finish_reason != "error"
    if entry and entry.get("created"):
        # Some servers give the time of the request: no property of the model.
        time.sleep(max(0.0, started + _CLOCK_S - time.monotonic()))
        again = client.entry() or {}
        entry = {k: v for k, v in entry.items() if k != "created" or again.get(k) == v}
    shown = {k: entry[k] for k in _FIELDS if k in entry} if entry else None
    replies = tuple(one.text[:_LONGEST_REPLY] for one in said) if whole else None
    return ProbedServer(shown, replies, _opens(client, said, on))


def _messages(text: str, on: Switch) -> list[dict[str, Any]]:
    return with_word([{"role": "user", "content": text}], on.system)


def _asked(client: ChatClient, text: str, on: Switch) -> Said:
    return client.chat(
        _messages(text, on),
        retries=1,
        timeout_s=120.0,
        max_tokens=_PROBE_TOKENS,
        temperature=0.0,
        seed=0,
        **on.keys(),
    )


def _opens(client: ChatClient, said: list[Said], on: Switch) -> bool | None:
    """See ProbedServer. A trace that the server takes out is never part of the text."""
    if any(one.trace for one in said):
        return False
    for one in said:
        if t.OPEN in one.answer or t.CLOSE in one.answer:
            return not one.answer.lstrip().startswith(t.OPEN)
    kwargs = on.keys().get("chat_template_kwargs") or {}
    more = {"chat_template_kwargs": kwargs} if kwargs else {}
    tokens = client.prompt_tokens(_messages(_PROBES[0], on), **more)
    if tokens is not None:
        return t.OPEN in "".join(tokens).rpartition(t.CLOSE)[2][-2 * len(t.OPEN) :]
    ended = any(one.finish_reason == "stop" for one in said)
    return False if ended else None


def shown(served: ProbedServer, client: ChatClient, more: Mapping[str, Any]) -> dict[str, Any]:
    """The part of results.json that says which served model was asked."""
    return {
        "endpoint": client.url,
        "model": client.model,
        "known_by": served.known_by,
        "entry": served.entry,
        "probe_replies": list(served.replies) if served.replies else None,
        **more,
    }
