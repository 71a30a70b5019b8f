"""Benchmarks by name. Families are in evals.tasks; data is read only when a benchmark is loaded."""

from collections.abc import Callable

from data_mix.world import DOMAINS, conversations
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading
from evals.tasks import (
    base,
    bfcl,
    bfcl_prompt,
    choice,
    code,
    contest,
    custom_questions,
    environments,
    instructions,
    judged,
    live_tools,
    maths,
    ruler,
    scicode,
    small_arithmetic,
)
from reward.plugin import is_plugin
from workbench.conversation import Conversation
from workbench.errors import unknown_name

# The questions are the same for every model and every run: only the sampling seed varies.
QUESTION_SEED = 2508
_MINIATURE_SIZE = 100
_MINIATURE = BenchmarkSampling(
    temperature=0.0, top_p=1.0, max_tokens=256, source="the miniature's own: greedy"
)


def _world(domain: str, split: str = "test") -> Benchmark:
    def load(loading: Loading) -> list[Conversation]:
        count = loading.limit or _MINIATURE_SIZE
        return list(conversations(domain, split, count, QUESTION_SEED))

    return Benchmark(
        f"mini-{domain}{'' if split == 'test' else f'-{split}'}",
        f"held-out {domain} problems of the miniature",
        Data("generated"),
        load,
        _MINIATURE,
    )


# The validation questions are for choices (a merge's alpha): who chose on the test questions cannot
# report on them.
BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        *base.BENCHMARKS,
        *bfcl.BENCHMARKS,
        *bfcl_prompt.BENCHMARKS,
        *choice.BENCHMARKS,
        *code.BENCHMARKS,
        *contest.BENCHMARKS,
        *environments.BENCHMARKS,
        *instructions.BENCHMARKS,
        *judged.BENCHMARKS,
        *live_tools.BENCHMARKS,
        *maths.BENCHMARKS,
        *scicode.BENCHMARKS,
        *small_arithmetic.BENCHMARKS,
        *(_world(domain, split) for split in ("test", "validation") for domain in DOMAINS),
    )
}
# Families: prefix of the name -> how to make one.
FAMILIES: dict[str, Callable[[str], Benchmark]] = {
    ruler.PREFIX: ruler.ruler,
    base.PREFIX: base.own_task,
    custom_questions.PREFIX: custom_questions.custom_questions,
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises: UserError naming the nearest one."""
    for prefix, make in FAMILIES.items():
        if name.startswith(prefix):
            return make(name)
    if is_plugin(name):
        return custom_questions.python_questions(name)
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, [*BENCHMARKS, *(f"{p}..." for p in FAMILIES)])
    return BENCHMARKS[name]
