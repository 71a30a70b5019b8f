"""Seeds of a task, and rows as they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from data_mix.documents import text_of
from evals.synthesis.work import Made
from workbench.conversation import CheckSpec, Conversation, Message


@dataclass(frozen=True)
class Seed:
    """One seed. id: unique in the stage. document: a text or a conversation."""

    id: str
    document: str | Conversation
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is shown to a writer: a text, or the words of a conversation's last question."""
        if isinstance(self.document, str):
            return self.document
        asked = [m for m in self.document.prompt if m["role"] == "user"]
        return str(asked[-1].get("content") or "") if asked else text_of(self.document)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation; None where the seed is a text."""
        return None if isinstance(self.document, str) else self.document


def seed_of(document: str | Conversation, place: int) -> Seed:
    """A source's document as a seed: its own id, or the digest of a text, with its place."""
    if isinstance(document, str):
        return Seed(
            f"{blake2b(document.encode('utf-8', 'replace'), digest_size=6).hexdigest()}-{place}",
            document,
        )
    return Seed(document.id, document)


def talk(
    id: str,
    domain: str,
    messages: Sequence[Message],
    *,
    check: CheckSpec | None = None,
    tools: Sequence[dict[str, Any]] = (),
    thinking: bool = True,
    problem: str | None = None,
    **about: Any,
) -> Made:
    """A row of form conversation; about: what else is known of it, as columns."""
    row = {
        "id": id, "domain": domain, "messages": list(messages), "tools": list(tools) or None,
        "check": None if check is None else asdict(check), "thinking": thinking, "problem": problem,
    }  # fmt: skip
    return Made({**row, **about})


def text_row(id: str, text: str, **about: Any) -> Made:
    """A row of form text."""
    return Made({"id": id, "text": text, **about})


def spoken(answer: str, thinking: str = "") -> Message:
    """An assistant's message."""
    message: Message = {"role": "assistant", "content": answer}
    return {**message, "reasoning_content": thinking} if thinking else message
