"""What preference training reads: a prompt with two replies, or with one and whether it is good."""

from dataclasses import dataclass

from data_mix.messages import unusable_reply
from workbench.conversation import Conversation, Message


@dataclass(frozen=True)
class Preference:
    """A prompt, its better reply and a worse one.

    chosen: the conversation that ends with the better reply. margin: how much better, where the data
    say; 0 is a tie.
    """

    chosen: Conversation
    rejected: Message
    margin: float | None = None

    @property
    def id(self) -> str:
        """That of the row."""
        return self.chosen.id

    @property
    def conversations(self) -> list[Conversation]:
        """The better one, then the worse one."""
        return [self.chosen, self.chosen.with_reply(self.rejected)]

    @property
    def problem(self) -> str:
        """Why nothing can be learned from it; empty where something can."""
        for name, reply in (("chosen", self.chosen.reply), ("rejected", self.rejected)):
            if reason := unusable_reply(reply or {}):
                return f"the {name} reply cannot be used ({reason})"
        if self.margin == 0:
            return "it is a tie: neither reply is preferred"
        if _said(self.chosen.reply) == _said(self.rejected):
            return "its chosen and rejected replies are the same"
        return ""


@dataclass(frozen=True)
class Labelled:
    """A prompt with one reply, and whether the reply is good."""

    conversation: Conversation
    good: bool

    @property
    def id(self) -> str:
        """That of the row."""
        return self.conversation.id

    @property
    def conversations(self) -> list[Conversation]:
        """The one."""
        return [self.conversation]

    @property
    def problem(self) -> str:
        """Why nothing can be learned from it; empty where something can."""
        reason = unusable_reply(self.conversation.reply or {})
        return f"its reply cannot be used ({reason})" if reason else ""


def _said(reply: Message | None) -> tuple[str, ...]:
    given = reply or {}
    keys = ("content", "reasoning_content", "tool_calls")
    return tuple(str(given.get(key) or "").strip() for key in keys)
