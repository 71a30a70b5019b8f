"""Conversations to tokens, in one process or several; their order is that of the conversations."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from sft.examples import to_example
from workbench.conversation import Conversation

_CHUNK = 256  # conversations: some hundred milliseconds of work, so that sending them is little
_AHEAD = 2  # chunks a worker has at most, done or not: memory does not grow with the samples

Rendered = list[tuple[str, np.ndarray]]


def rendered(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    workers: int,
    tell: Callable[[int, int], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """(domain, signed tokens) of each conversation, in order (sft.samples)."""
    starts = range(0, len(conversations), _CHUNK)
    chunks = ([conversations[n] for n in _part(s, len(conversations))] for s in starts)
    found = (
        (_render(chunk, tokenizer) for chunk in chunks)
        if workers == 1
        else _in_processes(chunks, tokenizer, workers)
    )
    done = 0
    for one in found:
        yield from one
        done += len(one)
        tell(done, len(conversations))


def _part(start: int, total: int) -> range:
    return range(start, min(start + _CHUNK, total))


def _render(chunk: Sequence[Conversation], tokenizer: Any) -> Rendered:
    examples = (to_example(conversation, tokenizer) for conversation in chunk)
    return [(example.domain, example.signed) for example in examples]


def _in_processes(
    chunks: Iterator[list[Conversation]], tokenizer: Any, workers: int
) -> Iterator[Rendered]:
    # Spawned: a fork of a process with torch's threads may wait for ever.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_keep, initargs=(tokenizer,)
    )
    waiting = deque[Future[Rendered]]()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_render_here, chunk))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_kept: list[Any] = []


def _keep(tokenizer: Any) -> None:
    _kept.append(tokenizer)


def _render_here(chunk: list[Conversation]) -> Rendered:
    return _render(chunk, _kept[0])
