"""A judge: another model behind an OpenAI-compatible endpoint, asked for an opinion in words.

What cannot be had (no network, a refusal of the server, a reply cut short or empty) is a status, so
that no caller can mistake it for a verdict. Reading a verdict from the words is the caller's.
Imports neither torch nor openai until a client is made.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, Literal

from pydantic import Field, field_validator

from engine.endpoint import ChatClient, Said, parts_of
from workbench.errors import UserError, reason_of
from workbench.schema import Section

Messages = Sequence[Mapping[str, Any]]
JudgeStatus = Literal["ok", "truncated", "error"]
_TRACE = re.compile(r"\A.*</think>", re.DOTALL)


class JudgeConfig(Section):
    """Which model judges, and how it is asked."""

    endpoint: str
    """http://host:port/v1#model, the model's name after the #."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the server's key; unset: none is sent."""
    temperature: float | None = Field(0.0, ge=0)
    """Sampling temperature; null: the server's own (some judges refuse to be told)."""
    max_tokens: int = Field(2048, ge=1)
    """Longest opinion, its own thinking included; one that is cut counts as failed."""
    timeout_s: float = Field(600.0, gt=0)
    """How long one request may take, in seconds."""
    retries: int = Field(4, ge=0)
    """How often a request is repeated after a lost connection, a timeout, or status 408, 409, 429
    or 5xx, with growing pauses."""
    parallel: int = Field(8, ge=1)
    """Most requests open at once."""
    seed: int | None = 0
    """Sent with every request, where the server reads it; null: not sent."""

    @field_validator("endpoint")
    @classmethod
    def _an_address(cls, value: str) -> str:
        parts_of(value)
        return value


@dataclass(frozen=True)
class JudgeReply:
    """What a judge said.

    Example: JudgeReply("ok", "Both are right. [[C]]", "", 9)

    status: "ok": a whole text. "truncated": the token limit cut it. "error": there is none, and
    `reason` says why. Only "ok" may be read for a verdict. text: without the judge's own thinking.
    """

    status: JudgeStatus
    text: str
    reason: str = ""
    tokens: int = 0


class JudgeClient:
    """Asks the judge. Thread-safe; all threads together keep at most `parallel` requests open."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._client = ChatClient(
            config.endpoint,
            api_key_env=config.api_key_env,
            retries=config.retries,
            timeout_s=config.timeout_s,
        )
        self._open = BoundedSemaphore(config.parallel)

    def ask(self, messages: Messages) -> JudgeReply:
        """One opinion. Blocks; never raises for what the server does."""
        config = self.config
        with self._open:
            return _read(
                self._client.chat(
                    messages,
                    max_tokens=config.max_tokens,
                    temperature=config.temperature,
                    seed=config.seed,
                )
            )

    def ask_all(self, conversations: Sequence[Messages]) -> list[JudgeReply]:
        """An opinion on each, `parallel` at a time; same order."""
        if not conversations:
            return []
        threads = min(self.config.parallel, len(conversations))
        with ThreadPoolExecutor(threads, thread_name_prefix="judge") as pool:
            return list(pool.map(self.ask, conversations))

    def must_answer(self) -> None:
        """Raises: UserError where the judge cannot be asked at all; call it before spending anything."""
        found = self.ask([{"role": "user", "content": "Reply with the word ready."}])
        if found.status == "error":
            raise UserError(
                f"the judge at {self.config.endpoint} does not answer ({found.reason[:200]}); start "
                f"it, or correct judge.endpoint (key: {self.config.api_key_env})"
            )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def _read(said: Said) -> JudgeReply:
    if said.finish_reason == "error":
        return _lost(f"judge: {said.error}")
    text, used = _TRACE.sub("", said.answer).strip(), said.tokens or 0
    if said.finish_reason == "length":
        return JudgeReply("truncated", text, "judge: the token limit cut its reply", used)
    if said.refused:
        return _lost(f"judge: it refused: {text}")
    if not text or text.startswith("<think>"):  # it ended inside its own thinking
        return _lost("judge: an empty reply")
    return JudgeReply("ok", text, "", used)


def _lost(reason: str) -> JudgeReply:
    return JudgeReply("error", "", reason_of(reason))
