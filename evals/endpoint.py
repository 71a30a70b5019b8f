"""A served model: any OpenAI-compatible endpoint as a responder.

`http://host:8000/v1#model-name`; the key, where the server wants one, is OPENAI_API_KEY's, as its
clients have it. Many requests are open at once; the server batches them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from threading import Lock
from typing import Any

from budget.client import NO_WAY, WAYS, BudgetedChat, Unkept, Way
from budget.requests import BudgetRequest
from engine.endpoint import HOW_TO_WRITE, ChatClient
from engine.protocol import Completion
from engine.served_messages import named_in, sent_messages, sent_names, sent_tools
from evals.responder import Ask
from evals.served import Served, look_at, shown
from workbench.chat import ReplyFormat
from workbench.chat import template as t
from workbench.conversation import Conversation
from workbench.errors import UserError, reason_of
from workbench.provenance import digest


class EndpointResponder:
    """Implements `Responder` over HTTP. Reasoning on or off goes into the system message, unless
    mode_words is off: then messages are sent as they are."""

    def __init__(self, address: str, *, open_requests: int = 64, mode_words: bool = True) -> None:
        try:
            self._client = ChatClient(address)
        except ValueError:
            raise UserError(f"endpoint {address!r}: {HOW_TO_WRITE}") from None
        self.model, self.tokenizer = self._client.model, None
        self._open_requests, self._mode_words = open_requests, mode_words
        self._budgeted = BudgetedChat(self._client)
        self._way: Way | None = None
        self._looked_for_way, self._lock = False, Lock()

    def must_answer(self) -> None:
        """Raises: UserError where nothing answers at the address; call it before anything is spent.
        Any reply will do, an error too: not every server lists its models."""
        why = self._client.unreachable()
        if why:
            raise UserError(
                f"model {self.model!r}: nothing answers at {self._client.url} ({why}); start the "
                "server, or correct http://host:port/v1#name"
            )

    @cached_property
    def _served(self) -> Served:
        return look_at(self._client)

    @property
    def identity(self) -> str:
        """See protocol. What the server tells and says, not its address and name alone."""
        known = [self._served.entry, self._served.replies]
        return digest({"endpoint": self._client.url, "model": self.model, "known": known})

    @property
    def format(self) -> ReplyFormat:
        """See protocol."""
        return ReplyFormat(opens=bool(self._served.opens))

    @property
    def served(self) -> dict[str, Any]:
        """What is known of the model, for results.json."""
        more = {"budgets": WAYS[self._way]} if self._way is not None else {}
        return shown(self._served, self._client, more)

    def prepare(self, conversation: Conversation, *, thinking: bool) -> Any:
        """See protocol. Raises: UserError where a call in the conversation cannot be sent."""
        messages = [dict(message) for message in conversation.prompt]
        mode = t.KEYWORD_ON if thinking else t.KEYWORD_OFF
        if not self._mode_words:
            pass
        elif messages and messages[0]["role"] == "system":
            messages[0]["content"] = f"{messages[0].get('content') or ''}\n{mode}".strip()
        else:
            messages.insert(0, {"role": "system", "content": mode})
        tools = conversation.tools or []
        names = sent_names(named_in(messages, tools))
        return {
            "messages": sent_messages(messages, names),
            "tools": sent_tools(tools, names),
            "names": {sent: own for own, sent in names.items() if sent != own},
            "thinking": thinking,
        }

    def fits(self, prompts: Sequence[Any], max_tokens: int) -> list[str]:
        """See protocol. The server knows its own limit."""
        return [""] * len(prompts)

    def stream(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
        """See protocol. A request that fails for good is an "error" completion."""
        executor = ThreadPoolExecutor(self._open_requests, thread_name_prefix="endpoint")
        try:
            places = {executor.submit(self._one, ask): place for place, ask in enumerate(asks)}
            for done in as_completed(places):
                yield places[done], done.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def num_tokens(self, text: str) -> int:
        """See protocol. The server's tokenizer is not at hand: four characters a token."""
        return -(-len(text) // 4)

    def adheres(self, ask: Ask, done: Completion) -> bool | None:
        """See protocol. A reply that did not keep its budget is an error, so what is left has."""
        return None if ask.sampling.thinking_budget is None else True

    def close(self) -> None:
        """See protocol."""
        self._client.close()

    def _one(self, ask: Ask) -> Completion:
        sampling, prompt = ask.sampling, ask.prompt
        settings = {
            "tools": prompt["tools"],
            "names": prompt["names"],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": ask.seed % 2**31,
        }
        if sampling.thinking_budget is not None:
            return self._under_budget(ask, settings)
        said = self._client.chat(prompt["messages"], **settings)
        if said.finish_reason == "error":
            return _failed(said.error)
        text = said.text
        if prompt["thinking"] and said.finish_reason == "length":
            text = self._cut(text)
        total = self.num_tokens(text) if said.tokens is None else said.tokens
        return _completion(text, said.finish_reason, total, said.trace_tokens or None)

    def _cut(self, text: str) -> str:
        """A reply that the token limit cut. Where it may have been cut inside a trace that the prompt
        had opened, which the text does not show, it is one: a cut trace has no answer."""
        unknown = self._served.opens is None and not (t.OPEN in text or t.CLOSE in text)
        return f"{t.THINK_ON}{text}" if unknown else text

    def _under_budget(self, ask: Ask, settings: dict[str, Any]) -> Completion:
        way, sampling = self._budget_way(), ask.sampling
        if way is None:
            return _failed(NO_WAY)
        assert sampling.thinking_budget is not None
        asked = BudgetRequest(
            sampling.thinking_budget, sampling.thinking_grace, sampling.thinking_rule
        )
        opens = self._served.opens
        try:
            reply = self._budgeted.ask(ask.prompt["messages"], way, asked, opens=opens, **settings)
        except Unkept as error:
            return _failed(str(error))
        text = self._cut(reply.text) if reply.finish_reason == "length" else reply.text
        return _completion(text, reply.finish_reason, reply.total_tokens, reply.thinking_tokens)

    def _budget_way(self) -> Way | None:
        with self._lock:
            if not self._looked_for_way:
                self._way, self._looked_for_way = self._budgeted.find_way(), True
            return self._way


def _failed(why: str) -> Completion:
    return Completion([], [], "", "error", error=reason_of(why))


def _completion(text: str, finish_reason: str, total: int, thinking: int | None) -> Completion:
    ids = [0] * total  # servers count tokens, they do not name them
    return Completion(ids, [], text, finish_reason, thinking_tokens=thinking)
