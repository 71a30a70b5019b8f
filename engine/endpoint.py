"""The one client of OpenAI-compatible servers: evaluations and judges ask through it.

Servers differ in what they send with status 200. Here a reply is either whole and readable, or it is
an error with a reason; nothing a server does raises. Imports no openai until a client is made.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.patience import Patience, Refused
from workbench.chat import template as t
from workbench.errors import UserError, one_line, reason_of

HOW_TO_WRITE = "write it as http://host:port/v1#model, the name after the #"
_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_NO_KEY = "none"  # local servers want a key and do not read it
_LONGEST_QUOTE = 120
_LONGEST_BODY = 64 << 20  # bytes; the longest real reply is far below
# What servers call a reply that ended by itself, and one that the token limit cut.
_WHOLE = frozenset(
    ("stop", "tool_calls", "function_call", "eos", "eos_token", "stop_sequence", "end_turn")
)
_CUT = frozenset(("length", "max_tokens", "max_length"))


def parts_of(address: str) -> tuple[str, str]:
    """URL and model of `http://host:port/v1#model`. Raises: ValueError that says how to write it."""
    url, _, model = address.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ValueError(HOW_TO_WRITE)
    return url, model


@dataclass(frozen=True)
class Said:
    """What a server said to one request.

    Example: Said("stop", answer="It is 4", tokens=5)

    finish_reason: "stop" | "length" | "error"; with "error" nothing but `error` and `status` counts.
    answer, trace: texts; the trace is apart only where the server takes it out. calls: {name,
    arguments}; arguments are a mapping, or the text of what is none. refused: the answer is the text
    of a refusal. tokens, prompt_tokens, trace_tokens: as the server counts; None where it does not.
    token_ids: of the reply, where they were asked for and the server names them (vLLM). status: of HTTP,
    where there was an answer at all. model: who answered, as the server names it.
    """

    finish_reason: Literal["stop", "length", "error"]
    answer: str = ""
    trace: str = ""
    calls: tuple[Mapping[str, Any], ...] = ()
    refused: bool = False
    tokens: int | None = None
    prompt_tokens: int | None = None
    trace_tokens: int | None = None
    token_ids: tuple[int, ...] | None = None
    error: str = ""
    status: int | None = None
    model: str = ""

    @property
    def text(self) -> str:
        """The whole reply as one text in our own format: trace, answer and calls. A trace that was
        taken out and is followed by nothing is not closed."""
        try:
            text = t.with_calls(self.answer, [dict(call) for call in self.calls])
        except (
            UserError
        ):  # arguments that are not an object: unreadable calls, as a checker sees them
            unread = [call["arguments"] for call in self.calls]
            text = f"{self.answer}{t.CALL_OPEN}{unread}{t.CALL_CLOSE}"
        if not self.trace:
            return text
        return f"{self.trace}{t.CLOSE}{text}" if text else f"{t.OPEN}{self.trace}"


class ChatClient:
    """Asks one model of one server. Thread-safe.

    retries: how often a request is repeated after a lost connection, a timeout, or status 408, 409,
    429 or 5xx; a Retry-After of the server is kept. patience_s: with it, status 429 costs no retry, and
    all requests wait together, each at most this long. omit: keys that are never sent.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        retries: int = 4,
        timeout_s: float = 1800.0,
        headers: Mapping[str, str] | None = None,
        omit: Sequence[str] = (),
        token_limit: str = "auto",
        patience: Patience | None = None,
    ) -> None:
        import openai  # noqa: PLC0415 - half a second, and few runs ask a server

        self.url, self.model = parts_of(address)
        self._errors, self._retries, self._patience = openai, retries, patience or Patience()
        self._timeout_s = timeout_s
        self._omit, self._token_limit = frozenset(omit), token_limit
        try:
            self._client = openai.OpenAI(
                base_url=self.url,
                api_key=os.environ.get(api_key_env) or _NO_KEY,
                max_retries=0,
                timeout=timeout_s,
                default_headers=dict(headers or {}),
            )
        except Exception as error:  # noqa: BLE001 - of whichever HTTP package openai stands on
            raise UserError(f"endpoint {address!r}: {one_line(error)}; {HOW_TO_WRITE}") from None

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        retries: int | None = None,
        timeout_s: float | None = None,
        names: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Said:
        """One reply. Blocks; never raises for what the server does. settings: further keys of the
        request, the server's own included; None and empty ones are not sent. names: a function's own
        name by the one that was sent for it (`served_messages`)."""
        sent = {
            name: value
            for name, value in settings.items()
            if value not in (None, [], {}) and name not in self._omit
        }
        if self._token_limit == _NEW_LIMIT and _LIMIT in sent:
            sent[_NEW_LIMIT] = sent.pop(_LIMIT)
        client = self._with(0, timeout_s)
        whole = [dict(message) for message in messages]

        def request() -> bytes:
            until = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
            try:
                with client.chat.completions.with_streaming_response.create(
                    model=self.model, messages=whole, extra_body=sent
                ) as done:
                    return _whole_body(done.iter_bytes(), until)
            except self._errors.APIStatusError as error:
                raise Refused(error, error.status_code, error.response.headers) from None
            except self._errors.APIConnectionError as error:
                raise Refused(error, None, {}) from None
            except (ValueError, TypeError, RecursionError, self._errors.OpenAIError):
                raise
            except Exception as error:  # noqa: BLE001 - a body, an error's too, that breaks off or is late
                raise Refused(error, None, {}) from None

        try:
            times = self._retries if retries is None else retries
            return _renamed(read_chat(self._patience.ask(request, times)), names or {})
        except Refused as refused:
            if refused.status == 400 and _LIMIT in sent and _NEW_LIMIT in str(refused):
                # Some models know the limit by its newer name alone, and say so.
                self._token_limit = _NEW_LIMIT
                again: dict[str, Any] = {"retries": retries, "timeout_s": timeout_s, "names": names}
                return self.chat(messages, **again, **settings)
            return Said("error", error=one_line(refused.error), status=refused.status)
        except self._errors.OpenAIError as error:
            return Said("error", error=one_line(error))
        except (ValueError, RecursionError) as error:  # a text that no request can carry
            return Said("error", error=one_line(error))

    def embeddings(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, in order (/v1/embeddings). Raises: ValueError with the server's reason."""
        try:
            made = self._client.embeddings.with_raw_response.create(
                model=self.model, input=list(texts), encoding_format="float"
            )
            rows = json.loads(made.http_response.content.decode("utf-8-sig"))["data"]
            ordered = sorted(rows, key=lambda row: row["index"])
            vectors = [[float(value) for value in row["embedding"]] for row in ordered]
        except self._errors.OpenAIError as error:
            raise ValueError(one_line(error)) from None
        if len(vectors) != len(texts):
            raise ValueError(f"{len(vectors)} vectors for {len(texts)} texts")
        return vectors

    def entry(self) -> dict[str, Any] | None:
        """The model's entry in the server's list; None where the server gives none."""
        try:
            raw = self._with(1, 20.0).models.with_raw_response.list().http_response.content
            rows = json.loads(raw.decode("utf-8-sig"))["data"]
            return next(dict(row) for row in rows if row.get("id") == self.model)
        except (self._errors.OpenAIError, ValueError, KeyError, TypeError, AttributeError):
            return None
        except StopIteration:
            return None

    def num_tokens(self, text: str) -> int | None:
        """Tokens of a text by the server's own tokenizer; None without."""
        ids = self.token_ids(text)
        return None if ids is None else len(ids)

    def token_ids(self, text: str) -> list[Any] | None:
        """A text's ids by the server's own tokenizer (vLLM, SGLang, llama.cpp); None without."""
        tokens = self._tokenized(prompt=text, content=text, add_special_tokens=False).get("tokens")
        return tokens if isinstance(tokens, list) else None

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> list[str] | None:
        """The tokens of a prompt as the server spells them (vLLM); None where it does not tell. more:
        further keys of the request."""
        sent = [dict(message) for message in messages]
        found = self._tokenized(messages=sent, return_token_strs=True, **more).get("token_strs")
        return [str(token) for token in found] if isinstance(found, list) and found else None

    def _tokenized(self, **body: Any) -> dict[str, Any]:
        url = f"{self.url.rstrip('/').removesuffix('/v1')}/tokenize"
        try:
            found = self._with(0, 60.0).post(
                url, body={"model": self.model, **body}, cast_to=object
            )
        except (self._errors.OpenAIError, ValueError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def unreachable(self) -> str:
        """Why nothing answers at the address; "" where something does, if only with an error."""
        try:
            self._with(1, 20.0).models.with_raw_response.list()
        except self._errors.APIConnectionError as error:
            return str(error.__cause__ or error)
        except self._errors.OpenAIError:
            return ""
        return ""

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _with(self, retries: int | None, timeout_s: float | None) -> Any:
        changed: dict[str, Any] = {}
        if retries is not None:
            changed["max_retries"] = retries
        if timeout_s is not None:
            changed["timeout"] = timeout_s
        return self._client.with_options(**changed) if changed else self._client


def _whole_body(pieces: Iterator[bytes], until: float) -> bytes:
    """A reply's body. The HTTP package's own time-out is of each piece, so a server that drips is never out
    of it. Raises: TimeoutError where it is not here in time; ValueError where it does not end."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if time.monotonic() > until:
            raise TimeoutError("the reply was still arriving when its time was over")
        if len(found) > _LONGEST_BODY:
            raise ValueError(f"the server's reply is longer than {_LONGEST_BODY:,} bytes")
    return bytes(found)


def _renamed(said: Said, names: Mapping[str, str]) -> Said:
    calls = [{**call, "name": names.get(call["name"], call["name"])} for call in said.calls]
    return replace(said, calls=tuple(calls)) if calls else said


def read_chat(body: bytes) -> Said:
    """The reply in a chat completion's body; an "error" with its reason where there is none."""
    try:
        text = body.decode("utf-8-sig").strip()
        value = _joined_chunks(text) if text.startswith(("data:", ":")) else json.loads(text)
        return _reply(value)
    except _Unreadable as error:
        return Said("error", error=f"the server's reply: {error}")
    except (ValueError, RecursionError):
        shown = " ".join(body[:_LONGEST_QUOTE].decode("utf-8", "replace").split())
        return Said("error", error=f"the server's reply is not JSON: {shown!r}")


class _Unreadable(Exception):
    """What is wrong with a body."""


def _reply(value: Any) -> Said:
    if not isinstance(value, dict):
        raise _Unreadable(f"{json.dumps(value)[:_LONGEST_QUOTE]} in place of an object")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _Unreadable(_said_error(value) or "the server returned no choice")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise _Unreadable("a choice without a message")
    ending = choice.get("finish_reason")
    if ending not in _WHOLE | _CUT:
        raise _Unreadable(
            _said_error(choice) or _said_error(value)
            or f"the server ended the request with {ending!r}"
        )  # fmt: skip
    answer, inner = _content(message.get("content"))
    refusal = _text(message.get("refusal"), "refusal")
    trace = inner or next(
        filter(None, (_text(message.get(k), k) for k in ("reasoning_content", "reasoning"))), ""
    )
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    return Said(
        "length" if ending in _CUT else "stop",
        answer=answer or refusal,
        trace=trace,
        calls=tuple(_calls(message)),
        refused=bool(refusal) and not answer,
        tokens=_count(usage.get("completion_tokens")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        trace_tokens=_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None,
        token_ids=_ids(choice.get("token_ids")),
        status=200,
        model=str(value.get("model") or ""),
    )


def _said_error(value: Mapping[str, Any]) -> str:
    """The error that some servers send with status 200."""
    found = value.get("error") or value.get("detail")
    if not found and value.get("object") == "error":
        found = value.get("message") or "an error"
    if isinstance(found, dict):
        found = found.get("message") or json.dumps(found)
    return f"error {reason_of(str(found))}" if found else ""


def _content(content: Any) -> tuple[str, str]:
    """Answer and trace of a message's content: a text, nothing, or a list of parts."""
    if not isinstance(content, list):
        return _text(content, "content"), ""
    answer, trace = [], []
    for part in content:
        kind = "text" if isinstance(part, str) else (part or {}).get("type")
        if isinstance(part, str):
            answer.append(part)
        elif kind in ("text", "output_text"):
            answer.append(_text(part.get("text"), "content part"))
        elif kind == "refusal":
            answer.append(_text(part.get("refusal"), "content part"))
        elif kind in ("thinking", "reasoning"):
            inside = part.get(kind, part.get("text"))
            trace.append(_content(inside)[0])
        else:
            raise _Unreadable(f"a content part of type {kind!r}")
    return "".join(answer), "".join(trace)


def _text(value: Any, what: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise _Unreadable(f"{what} is a {type(value).__name__}")


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = message.get("tool_calls")
    if not found and message.get("function_call"):
        found = [{"function": message["function_call"]}]
    if not isinstance(found or [], list):
        raise _Unreadable("tool_calls is not a list")
    calls: list[Mapping[str, Any]] = []
    for call in found or []:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(function, dict):
            raise _Unreadable(f"a tool call without a function's name: {call!r:.{_LONGEST_QUOTE}}")
        calls.append({"name": name, "arguments": _arguments(function.get("arguments"))})
    return calls


def _arguments(value: Any) -> Any:
    """A mapping; whatever else there was as text, which a checker sees as an unreadable call."""
    if value is None or value == "" or isinstance(value, dict):
        return value or {}
    try:
        found = json.loads(value, parse_constant=_no_constant)
    except (ValueError, TypeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else str(value)


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _ids(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and all(isinstance(item, int) for item in value)
    return tuple(value) if whole and value else None


def _joined_chunks(text: str) -> dict[str, Any]:
    """The whole completion of a body that is a stream of events, which nobody asked for."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {"choices": [{"message": message, "finish_reason": None}]}
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        chunk = json.loads(data)
        if not isinstance(chunk, dict) or chunk.get("error"):
            return {"error": chunk.get("error") if isinstance(chunk, dict) else "no object"}
        whole["model"] = chunk.get("model") or whole.get("model")
        whole["usage"] = chunk.get("usage") or whole.get("usage")
        for choice in (chunk.get("choices") or [])[:1]:
            ending = choice.get("finish_reason")
            whole["choices"][0]["finish_reason"] = ending or whole["choices"][0]["finish_reason"]
            delta = choice.get("delta") or choice.get("message") or {}
            for key in ("content", "reasoning_content", "reasoning", "refusal"):
                if delta.get(key):
                    message[key] = message.get(key, "") + delta[key]
            for call in delta.get("tool_calls") or []:
                _add_call(calls.setdefault(call.get("index", len(calls)), {}), call)
    message["tool_calls"] = [{"function": calls[place]} for place in sorted(calls)]
    return whole


def _add_call(call: dict[str, Any], delta: Mapping[str, Any]) -> None:
    function = delta.get("function") or {}
    call["name"] = call.get("name") or function.get("name")
    call["arguments"] = call.get("arguments", "") + (function.get("arguments") or "")
