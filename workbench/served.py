"""Recipe section `models`: models that a server answers for, and how each wants to be asked.

Imports nothing heavy: plans and light set-ups read it.
"""

import os
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from workbench.errors import UserError
from workbench.schema import Section

_ENVIRONMENT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


class Switch(Section):
    """What is sent to switch reasoning one way; empty: nothing."""

    system: str = ""
    """A word at the end of the system message, as /think."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values for the chat template, as {enable_thinking: false} (vLLM, SGLang)."""
    reasoning_effort: str | None = None
    """How much, where the API takes it; null: not sent."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Any other keys of the request."""

    def keys(self) -> dict[str, Any]:
        """The keys of a request that it makes, the system message aside."""
        found = {
            "chat_template_kwargs": self.chat_template_kwargs,
            "reasoning_effort": self.reasoning_effort,
        }
        return {**{key: value for key, value in found.items() if value}, **self.body}


class Thinking(Section):
    """How a model is told to reason, and how it is told not to."""

    on: Switch = Switch()
    """Sent where a trace is wanted."""
    off: Switch = Switch()
    """Sent where none is wanted."""


SwitchName = Literal["system", "template", "effort", "none"]
SWITCHES: dict[SwitchName, Thinking] = {
    "system": Thinking(on=Switch(system="/think"), off=Switch(system="/no_think")),
    "template": Thinking(
        on=Switch(chat_template_kwargs={"enable_thinking": True}),
        off=Switch(chat_template_kwargs={"enable_thinking": False}),
    ),
    "effort": Thinking(off=Switch(reasoning_effort="none")),
    "none": Thinking(),
}


class ServedSampling(Section):
    """How this model is sampled; null: as the benchmark's protocol or the evals stage says."""

    temperature: float | None = Field(None, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus."""
    top_k: int | None = Field(None, ge=1)
    """The likeliest tokens only, this many; null: not sent."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Tokens of at least this share of the likeliest one's probability; null: not sent."""
    presence_penalty: float | None = None
    """Against tokens that are there already; null: not sent."""
    frequency_penalty: float | None = None
    """The same, by how often; null: not sent."""
    repetition_penalty: float | None = Field(None, gt=0)
    """The same, by division, prompt included (vLLM, SGLang); null: not sent."""


class Price(Section):
    """What a model costs, in money a million tokens."""

    prompt: float = Field(ge=0)
    """A million tokens of prompts."""
    completion: float = Field(ge=0)
    """A million tokens of replies, reasoning included."""
    currency: str = "USD"
    """Shown beside sums."""


class ServedModel(Section):
    """A model behind an OpenAI-compatible server."""

    endpoint: str
    """http://host:port/v1, or http://host:port/v1#model."""
    model: str | None = None
    """The model's name on the server; null: what stands after the # in `endpoint`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the server's key; unset: none is sent."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of each request; $NAME in a value is read from the environment."""
    parallel: int = Field(64, ge=1, le=4096)
    """Most requests open at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests begun in a minute; null: no limit of ours."""
    retries: int = Field(4, ge=0)
    """How often a request is repeated after a lost connection, a timeout, or status 408, 409 or 5xx."""
    patience_s: float = Field(300.0, ge=0)
    """How long one request waits in all, in seconds, where the server says that it is asked too often
    (429, with or without Retry-After); then it has failed. All requests to the server wait together."""
    timeout_s: float = Field(1800.0, gt=0)
    """How long one request may take, in seconds."""
    sampling: ServedSampling = ServedSampling()
    """What differs for this model."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values for the chat template, with every request."""
    reasoning_effort: str | None = None
    """How much the model reasons, where it does; null: not sent."""
    thinking: Literal["auto"] | SwitchName | Thinking = "auto"
    """How reasoning is switched. system: /think and /no_think in the system message. template:
    enable_thinking for the chat template. effort: reasoning_effort none where it is off. none: nothing
    is sent. {on: {...}, off: {...}}: by keys of your own. auto: system or template where the server's
    own /tokenize shows that its template knows them, else none. A reply with a trace where none was
    wanted is a failed sample, whatever was sent."""
    token_limit: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    """The name by which the API knows the longest reply; auto: max_tokens, and the other one where it is
    refused."""
    omit: list[str] = Field(default_factory=list)
    """Keys that are never sent, for APIs that refuse them: [seed, temperature, top_p]."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Any other keys, with every request."""
    price: Price | None = None
    """For the cost in tables; null: none is shown."""

    @field_validator("endpoint")
    @classmethod
    def _an_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"got {value!r}; write it as http://host:port/v1")
        return value

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.endpoint.partition("#")[0]

    @property
    def served_name(self) -> str:
        """The model's name there; "" where the recipe gives none."""
        return self.model or self.endpoint.partition("#")[2]

    def sent_headers(self) -> dict[str, str]:
        """The headers with what the environment holds. Raises: UserError where a name is not set."""
        return {name: _ENVIRONMENT.sub(_from_environment, v) for name, v in self.headers.items()}

    def switch(self, thinking: bool, found: SwitchName) -> Switch:
        """What is sent for a mode. found: what `auto` has found."""
        way = found if self.thinking == "auto" else self.thinking
        both = way if isinstance(way, Thinking) else SWITCHES[way]
        chosen = both.on if thinking else both.off
        kwargs = {**self.chat_template_kwargs, **chosen.chat_template_kwargs}
        effort = chosen.reasoning_effort or self.reasoning_effort
        return chosen.model_copy(
            update={"chat_template_kwargs": kwargs, "reasoning_effort": effort}
        )

    def decides(self) -> dict[str, Any]:
        """What can change a reply: addresses, keys, pace and price do not."""
        names = ("sampling", "thinking", "chat_template_kwargs", "reasoning_effort", "body", "omit")
        return self.model_dump(mode="json", include=set(names), exclude_defaults=True)


def _from_environment(match: re.Match[str]) -> str:
    found = os.environ.get(match[1])
    if found is None:
        raise UserError(
            f"headers: the environment has no {match[1]}; set it, or write the value itself"
        )
    return found
