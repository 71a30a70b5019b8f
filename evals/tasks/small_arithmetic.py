"""Small sums, differences and products on problems that no training prompt asks: our own split."""

from data_mix.reasoning import reasoning_conversations
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading
from workbench.conversation import Conversation

_TASKS = {
    "basic_arithmetic": {
        "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1,
        "operators": ("+", "-", "*"), "allow_parentheses": False, "format_style": "natural",
    }
}  # fmt: skip
_SYSTEM = "Answer with the number only."
_QUESTIONS = 300
_SEED = 2508


def _load(loading: Loading) -> list[Conversation]:
    count = loading.limit or _QUESTIONS
    return reasoning_conversations(_TASKS, "test", count, seed=_SEED, system=_SYSTEM)


BENCHMARKS = (
    Benchmark(
        "small-arithmetic-held-out",
        "two numbers up to ten, added, subtracted or multiplied, in a split of our own by problem",
        Data("package reasoning-gym", packages=("reasoning_gym",)),
        _load,
        BenchmarkSampling(
            temperature=0.0, top_p=1.0, max_tokens=24, thinking=False, source="ours: greedy, short"
        ),
    ),
)
