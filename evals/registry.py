"""Benchmarks by name: where their questions come from."""

from collections.abc import Callable
from dataclasses import dataclass

from data_mix.world import DOMAINS, conversations
from workbench.conversation import Conversation
from workbench.errors import unknown_name


@dataclass(frozen=True)
class Benchmark:
    """questions(n, seed): the first n held-out questions, each with its check."""

    name: str
    about: str
    questions: Callable[[int, int], list[Conversation]]


def _world(domain: str) -> Benchmark:
    def questions(n: int, seed: int) -> list[Conversation]:
        return list(conversations(domain, "test", n, seed))

    return Benchmark(f"mini-{domain}", f"held-out {domain} problems of the miniature", questions)


BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in map(_world, DOMAINS)}

# The questions are the same for every model and every run: only the sampling seed varies.
QUESTION_SEED = 2508


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises: UserError naming the nearest one."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
