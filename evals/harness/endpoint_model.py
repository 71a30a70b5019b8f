"""A served model as a model of lm-eval's harness: it writes texts, and scores none.

Imports lm_eval: load it only where a sweep needs it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import LM

from engine.protocol import Completion, Sampling
from evals.harness.answers import Answers
from evals.harness.model import MAX_GENERATED, cut_at
from evals.responder import Ask, Responder
from workbench.chat import parse
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.provenance import digest


class EndpointLM(LM):
    """Each request is one user message; what counts is the answer behind a trace.

    A request that the server fails is an empty text and is listed in `failed`.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        name: str,
        longest: int,
        answers: Answers,
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__()
        self._responder, self._name, self._longest = responder, name, longest
        self._answers, self._watch = answers, watch
        self.num_cut = 0
        self.failed: dict[str, str] = {}
        """Contexts of requests that the server failed, and why."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Raises: UserError: servers of chats give no log-probabilities of prompts."""
        raise UserError(
            f"benchmark {self._name!r} reads log-likelihoods of prompts: give a checkpoint, or a task of "
            "lm-eval that reads what the model writes (generate_until)"
        )

    loglikelihood_rolling = loglikelihood

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """The answers, each cut at the first of its stop texts."""
        asks: dict[str, tuple[str, Ask]] = {}
        keys, stops = [], []
        for context, options in (request.args for request in requests):
            sampling = Sampling(
                max_tokens=max(int(options.get("max_gen_toks", MAX_GENERATED)), self._longest),
                temperature=float(options.get("temperature", 0.0))
                if options.get("do_sample")
                else 0.0,
                top_p=float(options.get("top_p", 1.0)) if options.get("do_sample") else 1.0,
                logprobs=False,
            )
            key = digest([self._responder.identity, "chat", context, repr(sampling)])
            keys.append(key)
            stops.append(_listed(options.get("until")))
            if key not in self._answers:
                asked = Conversation(key, "", [{"role": "user", "content": context}])
                prompt = self._responder.prepare(asked, thinking=True)
                asks[key] = (context, Ask(prompt, sampling, 0))
        self._get(asks)
        return [
            cut_at(str(self._answers.get(key) or ""), until)
            for key, until in zip(keys, stops, strict=True)
        ]

    def _get(self, asks: dict[str, tuple[str, Ask]]) -> None:
        names = list(asks)
        replies = self._responder.stream([ask for _, ask in asks.values()])
        for done, (place, completion) in enumerate(replies, 1):
            if completion.finish_reason == "error":
                self.failed[asks[names[place]][0]] = completion.error or "generation failed"
            else:
                self.num_cut += completion.finish_reason == "length"
                self._answers.keep(names[place], self._answer(completion))
            self._watch(done, len(asks))

    def _answer(self, completion: Completion) -> str:
        form = self._responder.format
        thought = form.thought(completion.text, asked=True)
        return parse(completion.text, thinking=thought).answer


def _listed(until: str | Sequence[str] | None) -> list[str]:
    return [until] if isinstance(until, str) else list(until or ())
