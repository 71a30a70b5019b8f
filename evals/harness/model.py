"""Our engine as a model of lm-eval's harness. Imports lm_eval: load it only where a sweep needs it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import TemplateLM

from engine.protocol import Completion, Engine, Request, Sampling
from evals.harness.answers import Answers
from workbench.errors import UserError
from workbench.provenance import digest

# What the harness generates where a task does not say.
MAX_GENERATED = 256


@dataclass(frozen=True)
class ScoredContinuation:
    """One continuation to score: the tokens of context and continuation, and how many of them are the
    continuation's. cut: the context was too long, and its beginning was left out."""

    tokens: tuple[int, ...]
    count: int
    cut: bool


class EngineLM(TemplateLM):
    """Log-likelihoods and greedy texts from an engine.

    Tokens are made as lm-eval's own Hugging Face model makes them. A request that the engine fails
    has the log-likelihood NaN (or an empty text) and is listed in `failed`. engine(longest) gives the
    engine for that many tokens.
    """

    backend = "causal"

    def __init__(
        self,
        tokenizer: Any,
        engine: Callable[[int], Engine],
        *,
        context: int,
        identity: str,
        answers: Answers,
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__()
        self.tokenizer, self._engine_for, self._context = tokenizer, engine, context
        self._identity, self._answers, self._watch = identity, answers, watch
        self.num_cut = 0
        self.failed: dict[str, str] = {}
        """Contexts of requests that the engine failed, and why."""

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes."""
        begin = self.tokenizer.bos_token_id
        return int(begin) if begin is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness' caches of requests, which we do not use."""
        return self._identity

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Base benchmarks show plain text. Raises: UserError."""
        raise UserError("the harness' benchmarks are for base models: no chat template is applied")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text. None: as the tokenizer does it on its own, unless the text already begins
        with its first token."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = not (begin and string.startswith(begin))
        found: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        wanted = [self._scored(context, continuation) for _, context, continuation in requests]
        self.num_cut += sum(one.cut for one in wanted)
        sampling = Sampling(max_tokens=1, temperature=0.0, logprobs=False, prompt_logprobs=True)
        keys = [digest([self._identity, "score", one.tokens, one.count]) for one in wanted]
        asks = {
            key: (text[0], one.count, Request(one.tokens, sampling))
            for key, one, (text, _, _) in zip(keys, wanted, requests, strict=True)
            if key not in self._answers
        }
        self._ask(asks, _likelihood)
        found = [self._answers.get(key) for key in keys]
        return [(math.nan, False) if x is None else (float(x[0]), bool(x[1])) for x in found]

    def _scored(self, context: list[int], continuation: list[int]) -> ScoredContinuation:
        whole = (*context, *continuation)
        room = self._context - 1  # the engine always makes a token
        return ScoredContinuation(whole[-room:], len(continuation), len(whole) > room)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, windows of the context after windows, each token scored once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # noqa: PLC0415

        out = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=self._context - 2,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            parts = self._loglikelihood_tokens([(("", ""), list(a), list(b)) for a, b in pairs])
            out.append(sum(value for value, _ in parts))
        return out

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Texts up to the task's stops. The engine knows stop tokens only; texts are cut here."""
        keys, asks, stops = [], {}, []
        for request in requests:
            context, options = request.args
            options = dict(options)
            until = options.pop("until", None) or []
            stops.append([until] if isinstance(until, str) else list(until))
            sampling = Sampling(
                # A short context leaves its first half to the prompt.
                max_tokens=min(int(options.get("max_gen_toks", MAX_GENERATED)), self._context // 2),
                temperature=float(options.get("temperature", 0.0))
                if options.get("do_sample")
                else 0.0,
                top_p=float(options.get("top_p", 1.0)) if options.get("do_sample") else 1.0,
                seed=0,
                stop_token_ids=(self.eot_token_id,),
                logprobs=False,
            )
            room = self._context - sampling.max_tokens
            ids = tuple(self.tok_encode(context))
            self.num_cut += len(ids) > room
            key = digest([self._identity, "text", ids[-room:], repr(sampling)])
            keys.append(key)
            if key not in self._answers:
                asks[key] = (context, 0, Request(ids[-room:], sampling, seed=0))
        self._ask(asks, lambda done, _: done.text)
        return [
            cut_at(str(self._answers.get(key) or ""), until)
            for key, until in zip(keys, stops, strict=True)
        ]

    def _ask(
        self,
        asks: dict[str, tuple[str, int, Request]],
        read: Callable[[Completion, int], Any],
    ) -> None:
        """Get what is missing: by key a request, its context's text, and a number for `read`. Each
        answer is kept as it comes."""
        if not asks:
            return
        longest = max(len(r.prompt) + r.sampling.max_tokens for _, _, r in asks.values())
        engine, names = self._engine_for(longest), list(asks)
        replies = engine.stream([request for _, _, request in asks.values()])
        try:
            for done, (place, completion) in enumerate(replies, 1):
                context, number, _ = asks[names[place]]
                if completion.finish_reason == "error":
                    self.failed[context] = completion.error or "generation failed"
                else:
                    self._answers.keep(names[place], read(completion, number))
                self._watch(done, len(asks))
        finally:
            close = getattr(replies, "close", None)
            if close is not None:
                close()


def _likelihood(done: Completion, count: int) -> tuple[float, bool]:
    """Log-likelihood of the prompt's last `count` tokens, and whether greedy decoding gives them."""
    return (
        math.fsum(done.prompt_logprobs[-count:]),
        all(rank == 1 for rank in done.prompt_ranks[-count:]),
    )


def cut_at(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop text in it."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
