"""Models for synthesis whose replies a function writes: a responder, and a voice of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.protocol import Completion, Sampling
from evals.responder import Ask
from evals.synthesis.drive import Voice
from workbench.chat import ReplyFormat
from workbench.conversation import Conversation

# (messages, seed) -> the reply's text; None: the server fails; text with CUT at its end: it is cut.
Script = Callable[[list[dict[str, Any]], int], str | None]
CUT = "<cut>"


class ScriptedResponder:
    """Implements evals.responder.Responder by a script; `asked` holds every prompt."""

    tokenizer = None
    identity = "scripted"
    format = ReplyFormat()

    def __init__(self, script: Script) -> None:
        self.script, self.asked, self.closed = script, list[list[dict[str, Any]]](), False

    def prepare(self, conversation: Conversation, *, thinking: bool) -> Any:
        return {"messages": [dict(m) for m in conversation.prompt], "tools": conversation.tools}

    def fits(self, prompts: Sequence[Any], max_tokens: int) -> list[str]:
        return [""] * len(prompts)

    def stream(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
        for place, ask in enumerate(asks):
            self.asked.append(ask.prompt["messages"])
            said = self.script(ask.prompt["messages"], ask.seed)
            if said is None:
                yield place, Completion([], [], "", "error", error="connection refused")
                continue
            text, cut = said.removesuffix(CUT), said.endswith(CUT)
            yield place, Completion([0] * len(text.split()), [], text, "length" if cut else "stop")

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def adheres(self, ask: Ask, done: Completion) -> bool | None:
        return None

    def close(self) -> None:
        self.closed = True


def voice(script: Script, name: str = "scripted") -> tuple[Voice, ScriptedResponder]:
    """A voice of a scripted model, without a trace."""
    responder = ScriptedResponder(script)
    return Voice(name, name, Sampling(64), False, lambda: responder), responder
