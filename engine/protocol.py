"""Generation behind one small protocol. Where and how tokens are made stays behind it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine.sync_check import Proof, SyncReport

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How to sample. `n` completions a prompt; `max_tokens` counts every generated token.

    `thinking_budget` is in tokens; None leaves thinking unbounded (budget/control has the rule).
    `logprobs`: return each token's log-probability (costs a little). `prompt_logprobs`: those of the
    prompt's tokens too (costs a row of logits for each).
    `to_the_end`: nothing ends a reply before max_tokens, which measuring wants.
    `seed` fixes the whole call: prompt i, sample j uses a seed derived from (seed, i, j).
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    to_the_end: bool = False
    thinking_budget: int | None = None
    thinking_grace: int = 500
    thinking_rule: Literal["newline", "card"] = "newline"
    logprobs: bool = True
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class Request:
    """One sample to make. `sampling.n` and `sampling.seed` are not read: `seed` is the sample's own.

    Example: Request([4, 9, 11], Sampling(max_tokens=64), seed=sample_seed(17, 0, 3))
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int | None = None


def sample_seed(seed: int, prompt: int | str, sample: int) -> int:
    """The 63-bit seed of one sample: it depends on nothing else in the batch."""
    text = f"{seed}/{prompt}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def requests_of(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Request]:
    """`sampling.n` requests for each prompt, prompt by prompt."""
    return [
        Request(
            prompt,
            sampling,
            None if sampling.seed is None else sample_seed(sampling.seed, number, sample),
        )
        for number, prompt in enumerate(prompts)
        for sample in range(sampling.n)
    ]


@dataclass(frozen=True)
class Completion:
    """One sampled reply.

    token_ids [T] include the stop token where one was sampled (finish_reason "stop").
    logprobs [T]: log-probability of each token under the distribution that was sampled from (after
    temperature, top-p, top-k and min-p). forced [T]: True where the budget rule, not the policy,
    chose the token.
    versions [T]: the policy version that sampled each token.
    prompt_logprobs [P - 1]: log-probability of each prompt token but the first, given those before it,
    under the model's own distribution (no temperature or the like), where they were asked for;
    prompt_ranks [P - 1]: its place among all tokens, 1 for the likeliest.
    thinking_tokens: those of the trace, where a server that names no ids has counted them;
    prompt_tokens: those of the prompt, likewise.
    finish_reason: "stop" | "length" | "error"; an "error" completion holds `error` and is never
    scored or trained on.
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    forced: list[bool] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    error: str | None = None
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_ranks: list[int] = field(default_factory=list)
    thinking_tokens: int | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Trace:
    """What one sample looked like from inside an engine of L decoder layers.

    token_ids [P + R]: prompt and reply; the last one was sampled and never fed back. num_prompt: P.
    logprobs [R]: of the reply. streams [L + 1, P + R - 1, H]: the residual stream before the first
    layer and after each.
    """

    token_ids: list[int]
    num_prompt: int
    logprobs: list[float]
    streams: "torch.Tensor"


class Engine(Protocol):
    """What rollouts, evaluation and data synthesis may ask of a generator."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Completion]]:
        """Sample `sampling.n` completions for each prompt of token ids; same order as prompts."""
        ...

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Sample every request; yield (its place, its completion) as each ends.

        Closing the iterator drops what has not ended.
        """
        ...

    def update_weights(
        self,
        tensors: Iterable[tuple[str, "torch.Tensor"]],
        *,
        version: int,
        proof: Proof | None = None,
    ) -> SyncReport | None:
        """Replace every weight by the named tensors (Hugging Face names) and note the version.

        With a proof: check what arrives against it, and what was loaded; a report of the checks.
        Raises: UserError (SyncError with a proof) where a tensor is missing, unknown, of another
        shape or not the one sent; then no weight has changed. SyncError where the weights that are
        loaded are not those; then nothing is sampled until a sync succeeds.
        """
        ...

    def trace(self, request: Request) -> list["Trace"]:
        """Make one sample and keep what each layer saw and gave, in every engine behind this one.
        Drops the requests under way. Only plain sampling at temperature 1."""
        ...

    def load_checkpoint(self, path: str, *, version: int) -> None:
        """Replace every weight by those of a Hugging Face checkpoint of the same architecture."""
        ...

    def describe(self) -> dict[str, Any]:
        """Engine name, versions, dtype and limits, for manifests."""
        ...

    def close(self) -> None:
        """Free the engine. Calling it twice is allowed."""
        ...


def groups_of(
    engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> list[list[Completion]]:
    """`Engine.generate` by way of `Engine.stream`: each sample a request, and a group for each prompt."""
    done = dict(engine.stream(requests_of(prompts, sampling)))
    flat = [done[place] for place in range(len(done))]
    return [flat[i : i + sampling.n] for i in range(0, len(flat), sampling.n)]
