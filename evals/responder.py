"""Who answers: an engine with a checkpoint's tokenizer, or a server. Both behind one small surface."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from budget.engine import adherence
from engine.protocol import Completion, Engine, Request, Sampling
from model.weights import json_object
from workbench.chat import ReplyFormat, prompt_ids, reply_format, stop_ids
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Ask:
    """One reply to get. prompt: as `prepare` made it."""

    prompt: Any
    sampling: Sampling
    seed: int


class Responder(Protocol):
    """What the evaluation loop asks of a model."""

    tokenizer: Any
    """The model's; None behind an endpoint."""

    @property
    def identity(self) -> str:
        """Digest of the model and of what in its engine changes replies."""
        ...

    @property
    def format(self) -> ReplyFormat:
        """How its replies are written."""
        ...

    def prepare(self, conversation: Conversation, *, thinking: bool) -> Any:
        """The prompt in the responder's own form. Raises: UserError where it has none."""
        ...

    def fits(self, prompts: Sequence[Any], max_tokens: int) -> list[str]:
        """For each prompt "" or why it cannot be asked."""
        ...

    def stream(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
        """Get all replies at once; yield (place, reply) as each ends."""
        ...

    def num_tokens(self, text: str) -> int:
        """Tokens of a text."""
        ...

    def adheres(self, ask: Ask, done: Completion) -> bool | None:
        """Whether the reply kept its thinking budget; None without one, or where it cannot be told."""
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...


@dataclass
class LocalResponder:
    """A checkpoint behind an engine, which starts with the first request.

    start(max_model_len) makes the engine; it is given the longest prompt and reply asked for, within
    `context`, the model's own limit. shortest: what the engine takes in any case.
    """

    tokenizer: Any
    identity: str
    start: Callable[[int], Engine]
    context: int
    shortest: int = 0
    format: ReplyFormat = field(init=False)
    _engine: Engine | None = None
    _longest: int = 0

    def __post_init__(self) -> None:
        self.format = reply_format(self.tokenizer)
        self._stop = stop_ids(self.tokenizer)

    def prepare(self, conversation: Conversation, *, thinking: bool) -> list[int]:
        """See protocol."""
        return prompt_ids(
            conversation.prompt,
            tools=conversation.tools,
            thinking=self.format.thinking(thinking),
            tokenizer=self.tokenizer,
        )

    def fits(self, prompts: Sequence[Any], max_tokens: int) -> list[str]:
        """See protocol. A reply is cut by the context, and then counts as truncated. An engine that
        runs is no longer made for longer prompts: those of later turns may not fit."""
        takes, who = self.context, "the model takes"
        if self._engine is not None and (started := max(self._longest, self.shortest)) < takes:
            takes, who = started, "engine.max_model_len is"
        problems = []
        for prompt in prompts:
            room = takes - len(prompt)
            if self._engine is None and room > 0:
                self._longest = max(self._longest, min(len(prompt) + max_tokens, takes))
            problem = f"the prompt has {len(prompt):,} tokens, {who} {takes:,}"
            problems.append("" if room > 0 else problem)
        return problems

    def stream(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
        """See protocol."""
        engine = self.engine()
        requests = [
            Request(a.prompt, _with_stop(a.sampling, self._stop, room=self.context), a.seed)
            for a in asks
        ]
        yield from engine.stream(requests)

    def engine(self, longest: int = 0) -> Engine:
        """The engine, started for `longest` tokens at least. A second start is made only where later
        requests are longer than all that were known at the first."""
        if self._engine is not None and longest > self._longest:
            self.close()
        self._longest = max(self._longest, min(longest, self.context))
        if self._engine is None:
            self._engine = self.start(self._longest)
        return self._engine

    def num_tokens(self, text: str) -> int:
        """See protocol."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def adheres(self, ask: Ask, done: Completion) -> bool | None:
        """See protocol. Counted in the reply's own ids, the part of a trace in the prompt included."""
        return adherence(ask.prompt, done.token_ids, ask.sampling, self.tokenizer)

    def close(self) -> None:
        """See protocol."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _with_stop(sampling: Sampling, stop: tuple[int, ...], *, room: int) -> Sampling:
    return replace(sampling, stop_token_ids=stop, max_tokens=min(sampling.max_tokens, room))


# Every file that changes what a checkpoint says.
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja")


def checkpoint_digest(folder: Path) -> str:
    """Digest of a checkpoint's contents, wherever it lies and whatever its run was called."""
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    if not paths:
        raise UserError(f"{str(folder)!r} is not a checkpoint folder (no weights, no config.json)")
    whole = blake2b(digest_size=8)
    for path in paths:
        whole.update(path.name.encode())
        with path.open("rb") as data:
            while chunk := data.read(2**22):
                whole.update(chunk)
    return whole.hexdigest()


def context_of(folder: Path) -> int:
    """The longest prompt and reply that a checkpoint was made for."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{str(folder)!r} is not a checkpoint folder (no config.json)")
    longest = json_object(path).get("max_position_embeddings")
    return longest if isinstance(longest, int) and longest > 0 else 2**20
