"""A deterministic engine for tests: a function of the prompt writes the replies."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from engine.protocol import Completion, Request, Sampling, Trace
from engine.sync_check import Proof

# (prompt ids, sample number) -> reply ids
Script = Callable[[Sequence[int], int], Sequence[int]]


class ScriptedEngine:
    """Implements the engine protocol without a model; counts what it is asked."""

    def __init__(self, script: Script, decode: Callable[[Sequence[int]], str]) -> None:
        self.script, self.decode = script, decode
        self.version, self.num_prompts, self.closed = 0, 0, False

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Completion]]:
        """Replies by the script, cut at `max_tokens`."""
        self.num_prompts += len(prompts)
        return [[self._one(p, s, sampling) for s in range(sampling.n)] for p in prompts]

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Replies by the script; equal prompts are numbered in the order they come."""
        seen: dict[tuple[int, ...], int] = {}
        for place, request in enumerate(requests):
            sample = seen.setdefault(tuple(request.prompt), 0)
            seen[tuple(request.prompt)] = sample + 1
            self.num_prompts += 1
            yield place, self._one(request.prompt, sample, request.sampling)

    def _one(self, prompt: Sequence[int], sample: int, sampling: Sampling) -> Completion:
        whole = list(self.script(prompt, sample))
        ids = whole[: sampling.max_tokens]
        return Completion(
            token_ids=ids,
            logprobs=[-1.0] * len(ids),
            text=self.decode(ids),
            finish_reason="stop" if len(ids) == len(whole) else "length",
            forced=[False] * len(ids),
            versions=[self.version] * len(ids),
        )

    def update_weights(
        self, tensors: Iterable[tuple[str, Any]], *, version: int, proof: Proof | None = None
    ) -> None:
        """Only notes the version: there is no model that could hold anything."""
        list(tensors)
        self.version = version

    def trace(self, request: Request) -> list[Trace]:
        """There are no layers."""
        return []

    def load_checkpoint(self, path: str, *, version: int) -> None:
        """Only notes the version."""
        self.version = version

    def describe(self) -> dict[str, Any]:
        """See protocol."""
        return {"engine": "scripted"}

    def close(self) -> None:
        """See protocol."""
        self.closed = True
