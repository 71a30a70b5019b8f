"""Thinking budgets over an OpenAI-compatible server, with or without our processor in it.

With it (`vllm serve ... --logits-processors budget.processor:ThinkingBudgetProcessor`) one call does::

    client.chat.completions.create(..., extra_body=extra_body(512))

Without it `complete` makes two: the model card's rule from outside. `BudgetedChat` finds out which
way a server knows, asks in it, and lets no reply pass that did not keep its budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from budget.control import RuleName
from budget.requests import DEFAULT_GRACE, BudgetRequest
from budget.vocabulary import CLOSE, OPEN
from engine.endpoint import ChatClient, Said
from workbench.errors import UserError

_CUT = ".\n</think>\n\n"
"""What the model card's client writes where it cuts a trace."""


@dataclass(frozen=True)
class ServedReply:
    """text: the whole reply, the tag included. thinking_tokens, total_tokens: as the server counts; of a
    trace that the model closed, where the server counts no texts, by its share of the characters.
    cut: whether the trace was cut at the budget. finish_reason: the last call's. prompt_tokens: of all
    calls; None where the server does not count them."""

    text: str
    thinking_tokens: int
    total_tokens: int
    cut: bool
    finish_reason: str
    prompt_tokens: int | None = None


def extra_body(
    budget: int, grace: int = DEFAULT_GRACE, rule: RuleName = "newline"
) -> dict[str, Any]:
    """The part of a request that carries the budget, for vLLM's OpenAI-compatible routes."""
    return {"vllm_xargs": BudgetRequest(budget, grace, rule).extra_args()}


def complete(
    create: Callable[..., Any], prompt: str, *, budget: int, max_tokens: int, **sampling: Any
) -> ServedReply:
    """Two raw completions: think for at most `budget` tokens, close the trace, answer.

    create: `openai.OpenAI(...).completions.create`, or anything that is called like it. prompt: text
    that ends with the open trace (the tokenizer's chat template with its generation prompt).
    max_tokens: of both calls together. Errors are those of `create`.
    """
    BudgetRequest.read({"thinking_budget": budget})

    def call(prefix: str, limit: int) -> tuple[str, str, int]:
        done = create(prompt=prompt + prefix, max_tokens=limit, **sampling)
        choice = done.choices[0]
        return choice.text, choice.finish_reason, done.usage.completion_tokens

    reply = _two_calls(call, budget=budget, max_tokens=max_tokens)
    return _without_answer(reply, None, lambda text: None)


def _two_calls(
    call: Callable[[str, int], tuple[str, str, int]],
    *,
    budget: int,
    max_tokens: int,
    thought: Callable[[str], bool] = lambda text: True,
) -> ServedReply:
    """call(text so far, most tokens) -> (text, finish reason, tokens). thought: whether a text without
    a closing tag is a trace, which is closed at the budget."""
    first_limit = min(budget, max_tokens)
    text, finish, used = "", "length", 0
    if first_limit:
        text, finish, used = call("", first_limit)
    if finish != "length" or used >= max_tokens:
        return ServedReply(text, used, used, False, finish)
    cut = CLOSE not in text and thought(text)
    opened = text + _CUT if cut else text
    rest, finish, more = call(opened, max_tokens - used)
    return ServedReply(opened + rest, used, used + more, cut, finish)


def _without_answer(
    reply: ServedReply, opens: bool | None, num_tokens: Callable[[str], int | None]
) -> ServedReply:
    """The reply with the tokens of its trace alone, where the model closed it. opens: as `ask`."""
    if reply.cut:
        return reply
    trace = "" if _is_answer(reply.text, opens) else reply.text.partition(CLOSE)[0]
    share = len(trace) / max(len(reply.text), 1)
    counted = num_tokens(trace) if trace else 0
    thinking = round(share * reply.total_tokens) if counted is None else counted
    return replace(reply, thinking_tokens=min(thinking, reply.total_tokens))


Way = Literal["processor", "server", "two calls"]
WAYS: dict[Way, str] = {
    "processor": "our logits processor in the server",
    "server": "the server's own thinking_token_budget",
    "two calls": "two calls: the trace cut at the budget, no newline waited for",
}
NO_WAY = (
    "the server keeps no thinking budgets: it has neither budget.processor:ThinkingBudgetProcessor "
    "nor thinking_token_budget nor continue_final_message"
)
# A trace's text can have a few tokens more than were sampled for it; vLLM's own budget closes a token
# late now and then (9 of 8 were seen).
_RETOKENISED, _LATE_TOKENS = 1.02, 2


class Unkept(Exception):
    """Why a request has no reply that counts: the server failed, or did not keep the budget."""


class BudgetedChat:
    """Chats under a thinking budget, in the way that the server knows."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._close_ids: list[Any] | None = None

    def find_way(self) -> Way | None:
        """Which way the server knows; None where none. At most five requests of one token."""
        user = {"role": "user", "content": "Say yes."}
        try:
            BudgetRequest.read({"thinking_budget": -1})
        except UserError as error:
            refusal = str(error)
        # What nobody reads is not refused: a server that answers these does not know the key.
        refused = self._probe([user], vllm_xargs={"thinking_budget": -1})
        if refused.status == 400 and refusal in refused.error:
            return "processor"
        refused = self._probe([user], thinking_token_budget=-2)
        if refused.status == 400 and "thinking_token_budget" in refused.error:
            found = self._probe([user], thinking_token_budget=1)
            if found.finish_reason != "error":
                return "server"
        # A final message that is continued has no end of turn and no new turn behind it.
        open_turn = [{"role": "system", "content": "/no_think"}, user]
        open_turn.append({"role": "assistant", "content": "Yes"})
        closed = self._probe(open_turn).prompt_tokens
        going_on = self._probe(open_turn, **_GOING_ON).prompt_tokens
        return "two calls" if going_on and closed and going_on < closed else None

    def _probe(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Said:
        return self._client.chat(
            messages, retries=1, timeout_s=120.0, max_tokens=1, temperature=0.0, **settings
        )

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        way: Way,
        asked: BudgetRequest,
        *,
        max_tokens: int,
        opens: bool | None,
        **settings: Any,
    ) -> ServedReply:
        """One reply that has kept its budget. opens: whether replies go on with a trace that the prompt
        has opened; None: unknown, and text without a tag counts as trace. Raises: Unkept."""
        if way == "two calls":
            return self._in_two(messages, asked.budget, max_tokens, opens, settings)
        more = (
            extra_body(asked.budget, asked.grace, asked.rule)
            if way == "processor"
            else {"thinking_token_budget": asked.budget}
        )
        more["return_token_ids"] = True
        said = self._client.chat(messages, max_tokens=max_tokens, **settings, **more)
        text, total = _heard(said), _counted(said)
        trace = said.trace or ("" if _is_answer(text, opens) else text.partition(CLOSE)[0])
        thinking = self._trace_tokens(said, trace, asked.budget + asked.grace)
        whole = max(total, thinking)
        return ServedReply(
            text, thinking, whole, False, said.finish_reason, prompt_tokens=said.prompt_tokens
        )

    def _trace_tokens(self, said: Said, trace: str, allowed: int) -> int:
        """Tokens of the trace. Raises: Unkept where they are more than allowed, or unknown."""
        total = _counted(said)
        if not trace:
            return 0
        # Some servers count 0 where the prompt has opened the trace.
        found = self._ids_before_close(said, trace) or said.trace_tokens or None
        if found is None:
            found = self._client.num_tokens(trace.removeprefix(OPEN))
        if found is None and total <= allowed:
            return total
        if found is None:
            raise Unkept(
                "whether the thinking budget was kept cannot be told: no count of its tokens"
            )
        if found > allowed * _RETOKENISED + _LATE_TOKENS:
            raise Unkept(f"thinking budget not kept: {found:,} tokens of {allowed:,} allowed")
        return found

    def _ids_before_close(self, said: Said, trace: str) -> int | None:
        """Tokens before the closing tag in the reply's own ids; None where they are not known."""
        if said.token_ids is None or not trace:
            return None
        if self._close_ids is None:
            self._close_ids = self._client.token_ids(CLOSE) or []
        close, ids = self._close_ids, list(said.token_ids)
        places = range(len(ids) - len(close) + 1) if close else ()
        return next((n for n in places if ids[n : n + len(close)] == close), None)

    def _in_two(
        self,
        messages: Sequence[Mapping[str, Any]],
        budget: int,
        max_tokens: int,
        opens: bool | None,
        settings: Mapping[str, Any],
    ) -> ServedReply:
        prompts: list[int | None] = []

        def call(prefix: str, limit: int) -> tuple[str, str, int]:
            opened = prefix.lstrip().startswith(OPEN) or _is_answer(prefix, opens)
            opening = "" if opened else f"{OPEN}\n"
            turn = [{"role": "assistant", "content": opening + prefix}] if prefix else []
            going_on = _GOING_ON if prefix else dict[str, Any]()
            said = self._client.chat([*messages, *turn], max_tokens=limit, **settings, **going_on)
            text, used = _heard(said), _counted(said)
            prompts.append(said.prompt_tokens)
            if used > limit:
                raise Unkept(f"thinking budget not kept: {used:,} tokens of {limit:,} allowed")
            if prefix and (said.trace or (CLOSE in text)):
                raise Unkept("thinking budget not kept: the answer opened a trace again")
            return text, said.finish_reason, used

        def thought(text: str) -> bool:
            return not _is_answer(text, opens)

        reply = _two_calls(call, budget=budget, max_tokens=max_tokens, thought=thought)
        known = [count for count in prompts if count is not None]
        asked = sum(known) if len(known) == len(prompts) else None
        reply = replace(reply, prompt_tokens=asked)
        return _without_answer(reply, opens, self._client.num_tokens)


_GOING_ON: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}


def _is_answer(text: str, opens: bool | None) -> bool:
    """Whether a reply without any tag is known to be no trace."""
    return opens is False and CLOSE not in text and not text.lstrip().startswith(OPEN)


def _heard(said: Said) -> str:
    if said.finish_reason == "error":
        raise Unkept(said.error)
    return said.text


def _counted(said: Said) -> int:
    if said.tokens is None:
        raise Unkept(
            "whether the thinking budget was kept cannot be told: the server counts no tokens"
        )
    return said.tokens
