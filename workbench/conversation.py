"""The record that data, training, rewards and evaluation pass around: one conversation."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from workbench.errors import UserError
from workbench.identity import row_id

# A message is the ecosystem's own mapping: {role, content, reasoning_content?, tool_calls?}; ours is
# `reasoning_cut` on a reply whose trace was cut (budget.truncation).
Message = dict[str, Any]


@dataclass(frozen=True)
class CheckSpec:
    """How an answer is verified: `reward.check(kind, response_text, reference, **options)`.

    Example: CheckSpec("math", "42"), CheckSpec("choice", "B", {"num_choices": 4}).
    """

    kind: str
    reference: Any
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """A prompt, its worked reply where there is one, and its check where there is one.

    Example::

        Conversation(
            id="math-train-17", domain="math",
            messages=[{"role": "user", "content": "12 + 30 + 7 = ?"},
                      {"role": "assistant", "reasoning_content": "12 + 30 = 42\\n42 + 7 = 49",
                       "content": "49"}],
            check=CheckSpec("math", "49"))

    `messages` may end with the assistant's reply (training) or without it (RL prompts, evals).
    problem: what is asked, where other prompts ask the same in other words: such prompts are no
    independent evidence, so intervals are clustered by it.
    """

    id: str
    domain: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    check: CheckSpec | None = None
    thinking: bool = True
    problem: str | None = None

    @property
    def prompt(self) -> list[Message]:
        """The messages without a final assistant reply."""
        last_is_reply = bool(self.messages) and self.messages[-1]["role"] == "assistant"
        return self.messages[:-1] if last_is_reply else self.messages

    @property
    def reply(self) -> Message | None:
        """The final assistant message, or None where the conversation is a bare prompt."""
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last["role"] == "assistant" else None

    def with_reply(self, reply: Message) -> "Conversation":
        """The same prompt with another final reply."""
        return replace(self, messages=[*self.prompt, reply])

    def to_row(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_row` is its inverse."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any], *, where: str = "the row") -> "Conversation":
        """Read a row written by `to_row` (JSONL and Parquet sources use the same columns).

        where: its place, which is its id where it has none. Raises: UserError where the id, the check or
        `thinking` (true, false, or null as if it were not there) is not one; KeyError and TypeError
        where something is missing or of another kind.
        """
        check = row.get("check")
        identity = row_id(row, where=where)
        return cls(
            id=identity,
            domain=str(row["domain"]),
            messages=list(row["messages"]),
            tools=row.get("tools") or None,
            check=_check_spec(check, f"{where} (id {identity!r:.80})") if check else None,
            thinking=_thinking(row.get("thinking"), where),
            problem=None if row.get("problem") is None else str(row["problem"]),
        )


def _check_spec(given: dict[str, Any], where: str) -> CheckSpec:
    spec = CheckSpec(**given)
    if not isinstance(spec.kind, str):
        raise UserError(f"{where}: check.kind is {_shown(spec.kind)}; write the name of a check")
    if not isinstance(spec.options, dict):
        raise UserError(
            f"{where}: check.options is {_shown(spec.options)}; write a mapping, or leave it out"
        )
    return spec


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"


def _thinking(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise UserError(
            f"{where}: thinking is {value!r:.40}; allowed: true, false and null (which is true)"
        )
    return value is not False
