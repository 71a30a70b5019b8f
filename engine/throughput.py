"""Output tokens a second of an engine at a fixed batch, as the paper counts them (arXiv 2508.14444, Table 10)."""

import time
from random import Random

from engine.protocol import Engine, Request, Sampling
from workbench.errors import UserError


def tokens_per_second(
    engine: Engine,
    *,
    vocab_size: int,
    prompt_tokens: int,
    new_tokens: int,
    batch: int,
    rounds: int,
    seed: int = 0,
) -> list[float]:
    """Output tokens a second of each round: `batch` prompts of random tokens [prompt_tokens] are asked at
    once, and each reply has exactly `new_tokens`. Time counts from the first prompt to the last token, so
    reading the prompts is in it. A short round before them warms the engine up.

    Raises: UserError where a reply fails.
    """
    random = Random(seed)
    _round(engine, random, vocab_size, prompt_tokens, min(new_tokens, 8), batch)
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        made = _round(engine, random, vocab_size, prompt_tokens, new_tokens, batch)
        found.append(made / (time.perf_counter() - started))
    return found


def _round(
    engine: Engine, random: Random, vocab_size: int, prompt: int, new: int, batch: int
) -> int:
    sampling = Sampling(max_tokens=new, to_the_end=True, logprobs=False)
    requests = [
        Request([random.randrange(vocab_size) for _ in range(prompt)], sampling, seed)
        for seed in range(batch)
    ]
    made = 0
    for _, done in engine.stream(requests):
        if done.error is not None:
            raise UserError(f"throughput: a reply failed: {done.error}")
        made += len(done.token_ids)
    return made
