"""A served model: any OpenAI-compatible endpoint as a responder.

`http://host:8000/v1#model-name`, or an entry of the recipe's `models` (workbench.served), which says how
the model wants to be asked. Many requests are open at once; the server batches them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from threading import Lock, RLock
from typing import Any

from budget.client import NO_WAY, WAYS, BudgetedChat, Unkept, Way
from budget.requests import BudgetRequest
from engine.endpoint import HOW_TO_WRITE, ChatClient, Said
from engine.patience import Patience
from engine.protocol import Completion
from engine.served_messages import named_in, sent_messages, sent_names, sent_tools
from evals.responder import Ask
from evals.served import ProbedServer, look_at, shown
from evals.switches import find_switch, thought_anyway, with_word
from workbench.chat import ReplyFormat
from workbench.chat import template as t
from workbench.conversation import Conversation
from workbench.errors import UserError, reason_of
from workbench.provenance import digest
from workbench.served import ServedModel, SwitchName, Thinking

# What an API may refuse to be told; a recipe says so by `omit`.
_REFUSABLE = ("temperature", "top_p", "seed", "top_k", "min_p", "presence_penalty", "tools")


class EndpointResponder:
    """Implements `Responder` over HTTP. Without a `model` it is asked as the defaults say; mode_words off:
    messages are then sent as they are."""

    def __init__(
        self,
        address: str,
        model: ServedModel | None = None,
        *,
        open_requests: int = 64,
        mode_words: bool = True,
    ) -> None:
        if model is None:
            given = {"endpoint": address, "parallel": open_requests}
            more = {} if mode_words else {"thinking": "none"}
            model = ServedModel.read({**given, **more}, where="models")
        self.config = model
        address = f"{model.url}#{model.served_name}"
        try:
            self._client = ChatClient(
                address,
                api_key_env=model.api_key_env,
                retries=model.retries,
                timeout_s=model.timeout_s,
                headers=model.sent_headers(),
                omit=model.omit,
                token_limit=model.token_limit,
                patience=Patience(
                    patience_s=model.patience_s, per_minute=model.requests_per_minute
                ),
            )
        except ValueError:
            raise UserError(f"endpoint {address!r}: {HOW_TO_WRITE}") from None
        self.model, self.tokenizer = self._client.model, None
        self._budgeted = BudgetedChat(self._client)
        self._answered: Counter[str] = Counter()
        self._way: Way | None = None
        self._looked_for_way, self._lock = False, Lock()
        # Of this model alone: Python 3.11's cached_property has one lock for all, and one server that
        # hangs would have all others of a sweep wait.
        self._looking = RLock()
        self._found_switch: SwitchName | None = None
        self._found: ProbedServer | None = None

    def must_answer(self) -> None:
        """Raises: UserError where nothing answers at the address; call it before anything is spent.
        Any reply will do, an error too: not every server lists its models."""
        why = self._client.unreachable()
        if why:
            raise UserError(
                f"model {self.model!r}: nothing answers at {self._client.url} ({why}); start the "
                "server, or correct http://host:port/v1#name"
            )

    @property
    def _switch(self) -> SwitchName:
        with self._looking:
            if self._found_switch is None:
                auto = self.config.thinking == "auto"
                self._found_switch = find_switch(self._client) if auto else "none"
            return self._found_switch

    @property
    def _served(self) -> ProbedServer:
        with self._looking:
            if self._found is None:
                self._found = look_at(self._client, self.config.switch(True, self._switch))
            return self._found

    @property
    def identity(self) -> str:
        """See protocol. What the server tells and says, not its address and name alone; and how it is
        asked."""
        known = [self._served.entry, self._served.replies]
        asked = [self._switch, self.config.decides()]
        return digest(
            {"endpoint": self._client.url, "model": self.model, "known": known, "asked": asked}
        )

    @property
    def format(self) -> ReplyFormat:
        """See protocol."""
        return ReplyFormat(opens=bool(self._served.opens))

    @property
    def served(self) -> dict[str, Any]:
        """What is known of the model, for results.json."""
        more: dict[str, Any] = {"budgets": WAYS[self._way]} if self._way is not None else {}
        thinking = self.config.thinking
        whole = thinking.model_dump() if isinstance(thinking, Thinking) else thinking
        more["thinking"] = f"auto: {self._switch}" if thinking == "auto" else whole
        more |= {k: v for k, v in self.config.decides().items() if k != "thinking"}
        if len(self._answered) > 1:
            more["answered_by"] = dict(self._answered)
        return shown(self._served, self._client, more)

    def prepare(self, conversation: Conversation, *, thinking: bool) -> Any:
        """See protocol. Raises: UserError where a call in the conversation cannot be sent."""
        switch = self.config.switch(thinking, self._switch)
        messages = with_word(conversation.prompt, switch.system)
        tools = conversation.tools or []
        names = sent_names(named_in(messages, tools))
        return {
            "messages": sent_messages(messages, names),
            "tools": sent_tools(tools, names),
            "names": {sent: own for own, sent in names.items() if sent != own},
            "thinking": thinking,
            **({"keys": keys} if (keys := switch.keys()) else {}),
        }

    def fits(self, prompts: Sequence[Any], max_tokens: int) -> list[str]:
        """See protocol. The server knows its own limit."""
        return [""] * len(prompts)

    def stream(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
        """See protocol. A request that fails for good is an "error" completion.

        No more are open, or answered and not yet taken, than may be open at once: whoever keeps each reply
        as it comes loses no more than those at a kill.
        """
        most = self.config.parallel
        executor = ThreadPoolExecutor(most, thread_name_prefix="endpoint")
        left = iter(enumerate(asks))
        places: dict[Future[Completion], int] = {}
        try:
            while True:
                for place, ask in islice(left, most - len(places)):
                    places[executor.submit(self._one, ask)] = place
                if not places:
                    return
                ended, _ = wait(places, return_when=FIRST_COMPLETED)
                for done in ended:
                    yield places[done], done.result()
                    del places[done]
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
        own = self.config.sampling.model_dump(exclude_none=True)
        settings = {
            "tools": prompt["tools"],
            "names": prompt["names"],
            **own,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": ask.seed % 2**31,
            **self.config.body,
            **prompt.get("keys", {}),
        }
        if sampling.thinking_budget is not None:
            return self._under_budget(ask, settings)
        said = self._client.chat(prompt["messages"], **settings)
        if said.finish_reason == "error":
            return _failed(_with_hint(said, settings))
        with self._lock:
            self._answered[said.model] += 1
        if not prompt["thinking"] and (why := thought_anyway(said)):
            return _failed(why)
        text = said.text
        if prompt["thinking"] and said.finish_reason == "length":
            text = self._cut(text)
        total = self.num_tokens(text) if said.tokens is None else said.tokens
        done = _completion(text, said.finish_reason, total, said.trace_tokens or None)
        return replace(done, prompt_tokens=said.prompt_tokens)

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
        done = _completion(text, reply.finish_reason, reply.total_tokens, reply.thinking_tokens)
        return replace(done, prompt_tokens=reply.prompt_tokens)

    def _budget_way(self) -> Way | None:
        with self._lock:
            if not self._looked_for_way:
                self._way, self._looked_for_way = self._budgeted.find_way(), True
            return self._way


def _with_hint(said: Said, settings: Mapping[str, Any]) -> str:
    """The error, and what a recipe can leave out where the API has refused a key by its name."""
    if said.status not in (400, 422):
        return said.error
    named = [key for key in _REFUSABLE if key in said.error and settings.get(key) is not None]
    if not named:
        return said.error
    return f"leave out what it refuses by models.NAME.omit: [{', '.join(named)}]; {said.error}"


def _failed(why: str) -> Completion:
    return Completion([], [], "", "error", error=reason_of(why))


def _completion(text: str, finish_reason: str, total: int, thinking: int | None) -> Completion:
    ids = [0] * total  # servers count tokens, they do not name them
    return Completion(ids, [], text, finish_reason, thinking_tokens=thinking)
