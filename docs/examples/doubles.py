"""A benchmark of one's own: `--benchmarks docs/examples/doubles.py:bench` (docs/evals.md)."""

from collections.abc import Iterator
from typing import Any


def bench() -> Iterator[dict[str, Any]]:
    """Doubles of numbers up to 30, and questions whose answers have a length of their own."""
    for n in range(2, 31):
        yield {"prompt": f"What is 2 times {n}?", "answer": 2 * n, "domain": "doubles"}
        yield {
            "prompt": f"Write {n} words about rain.",
            "answer": n,
            "check": num_words,
            "domain": "lengths",
            "options": {"within": 0.2},
        }


def num_words(prompt: str, reply: Any, reference: int, *, within: float) -> float:
    """1 where the answer has as many words as were asked for, give or take a share."""
    return float(abs(len(reply.answer.split()) - reference) <= within * reference)
