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


def _world(domain: str, split: str = "test") -> Benchmark:
    def questions(n: int, seed: int) -> list[Conversation]:
        return list(conversations(domain, split, n, seed))

    suffix = "" if split == "test" else f"-{split}"
    return Benchmark(
        f"mini-{domain}{suffix}", f"held-out {domain} problems of the miniature", questions
    )


# The validation questions are for choices (a merge's alpha): who chose on the test questions cannot
# report on them.
BENCHMARKS: dict[str, Benchmark] = {
    b.name: b for split in ("test", "validation") for b in (_world(d, split) for d in DOMAINS)
}

# The questions are the same for every model and every run: only the sampling seed varies.
QUESTION_SEED = 2508


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises: UserError naming the nearest one."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
