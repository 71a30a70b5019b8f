"""A served model: any OpenAI-compatible endpoint as a responder.

`http://host:8000/v1#model-name`; the key, where the server wants one, is OPENAI_API_KEY's, as its
clients have it. Many requests are open at once; the server batches them.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from budget.client import extra_body
from engine.protocol import Completion
from evals.format import ReplyFormat
from evals.responder import Ask
from workbench.chat import template as t
from workbench.conversation import Conversation
from workbench.errors import UserError, one_line
from workbench.provenance import digest

_RETRIES, _TIMEOUT_S = 4, 1800.0
_ANSWER_S = 20.0


class EndpointResponder:
    """Implements `Responder` over HTTP. Reasoning on or off goes into the system message."""

    def __init__(self, address: str, *, open_requests: int = 64) -> None:
        url, _, model = address.partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise UserError(
                f"endpoint {address!r}: write it as http://host:port/v1#model, the name after the #"
            )
        import openai  # noqa: PLC0415 - half a second, and few sweeps need it

        self.model, self.format = model, ReplyFormat(opens=False)
        self.identity = digest({"endpoint": url, "model": model})
        self._open_requests, self.tokenizer = open_requests, None
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=_RETRIES,
            timeout=_TIMEOUT_S,
        )
        self._errors = openai.OpenAIError

    def must_answer(self) -> None:
        """Raises: UserError where nothing answers at the address; call it before anything is spent.
        Any reply will do, an error too: not every server lists its models."""
        import openai  # noqa: PLC0415 - half a second, and few sweeps need it

        client = self._client.with_options(max_retries=1, timeout=_ANSWER_S)
        try:
            client.models.list()
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise UserError(
                f"model {self.model!r}: nothing answers at {self._client.base_url} ({why}); start the "
                "server, or correct http://host:port/v1#name"
            ) from None
        except openai.OpenAIError:
            return

    def prepare(self, conversation: Conversation, *, thinking: bool) -> dict[str, Any]:
        """See protocol."""
        messages = [dict(message) for message in conversation.prompt]
        mode = "/think" if thinking else "/no_think"
        if messages[0]["role"] == "system":
            messages[0]["content"] = f"{messages[0]['content']}\n{mode}".strip()
        else:
            messages.insert(0, {"role": "system", "content": mode})
        tools = [_openai_tool(tool) for tool in conversation.tools or []]
        return {"messages": [_openai_message(m) for m in messages], "tools": tools}

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
        """See protocol. A server gives no ids to count."""
        return None

    def close(self) -> None:
        """See protocol."""
        self._client.close()

    def _one(self, ask: Ask) -> Completion:
        sampling = ask.sampling
        extra = (
            {}
            if sampling.thinking_budget is None
            else extra_body(
                sampling.thinking_budget, sampling.thinking_grace, sampling.thinking_rule
            )
        )
        try:
            done = self._client.chat.completions.create(
                model=self.model,
                messages=ask.prompt["messages"],
                **({"tools": ask.prompt["tools"]} if ask.prompt["tools"] else {}),
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=ask.seed % 2**31,
                extra_body=extra or None,
            )
        except self._errors as error:
            return _failed(one_line(error)[:300])
        if not done.choices:
            return _failed("the server returned no choice")
        choice = done.choices[0]
        if choice.finish_reason not in ("stop", "length", "tool_calls"):
            return _failed(f"the server ended the request with {choice.finish_reason!r}")
        count = done.usage.completion_tokens if done.usage else 0
        return Completion(
            token_ids=[0] * count,  # servers count tokens, they do not name them
            logprobs=[],
            text=_text(choice.message),
            finish_reason="length" if choice.finish_reason == "length" else "stop",
        )


def _failed(why: str) -> Completion:
    return Completion([], [], "", "error", error=why)


def _text(message: Any) -> str:
    """The whole reply as one text: trace and calls may have been taken out by the server."""
    extra = message.model_extra or {}
    trace = extra.get("reasoning_content") or extra.get("reasoning")
    calls = [
        {"name": c.function.name, "arguments": _arguments(c.function.arguments)}
        for c in message.tool_calls or []
    ]
    answer = message.content or ""
    try:
        text = t.with_calls(answer, calls or None)
    except (
        UserError
    ):  # arguments that are no JSON object: unreadable calls, as the checker sees them
        text = f"{answer}{t.CALL_OPEN}{[c['arguments'] for c in calls]}{t.CALL_CLOSE}"
    if not trace:
        return text
    # A trace that the token limit cut is not closed.
    return f"{trace}{t.CLOSE}{text}" if text else f"{t.OPEN}{trace}"


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _openai_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


def _openai_message(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return {k: v for k, v in message.items() if k != "reasoning_content"}
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {
                "name": call.get("function", call)["name"],
                "arguments": json.dumps(call.get("function", call)["arguments"]),
            },
        }
        for number, call in enumerate(message["tool_calls"])
    ]
    return {"role": "assistant", "content": message.get("content") or "", "tool_calls": calls}
