"""Tool calling on real requests whose tools no training prompt offers: our own split, no BFCL score."""

from data_mix.bfcl import bfcl_conversations
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading
from workbench.conversation import Conversation

# Short enough that two cores answer all of it with a small model in minutes.
_MAX_CHARACTERS = 1600


def _load(loading: Loading) -> list[Conversation]:
    return bfcl_conversations("test", max_characters=_MAX_CHARACTERS)[: loading.limit]


BENCHMARKS = (
    Benchmark(
        "live-tools-held-out",
        "real requests and gold calls of BFCL v3's live categories, in a split of our own by tool, up "
        "to 1,600 characters; not a BFCL score",
        Data("package bfcl-eval 2025.6.16", packages=("bfcl_eval",)),
        _load,
        BenchmarkSampling(
            temperature=0.0, top_p=1.0, max_tokens=96, thinking=False, source="ours: greedy, short"
        ),
    ),
)
