"""What a benchmark's name promises: samples a question, temperature, and options in no telling order."""

from collections import Counter

import pytest

from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.registry import benchmark
from evals.tasks.choice import shuffled

# Name -> (samples a question, temperature, nucleus): model card and VL paper's protocol [facts].
PROTOCOLS = {
    "aime24": (16, 0.6, 0.95),
    "aime25": (16, 0.6, 0.95),
    "math-500": (4, 0.6, 0.95),
    "gpqa-diamond": (4, 0.6, 0.95),
    "mmlu-pro": (1, 0.6, 0.95),
    "gsm8k": (1, 0.6, 0.95),
    "mini-math": (1, 0.0, 1.0),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_benchmark_is_sampled_as_its_source_says(name: str) -> None:
    config = EvalsConfig.read({"kind": "evals", "benchmarks": [name]}, where="evals")
    (job,) = jobs_of(config, seed=1)
    sampling = job.sampling
    assert (sampling.n, sampling.temperature, sampling.top_p) == PROTOCOLS[name]
    assert benchmark(name).protocol.source


def test_the_right_option_stands_anywhere_and_always_there() -> None:
    """Of 400 questions each place has 100 +- 35 (4 standard errors of 8.7) [derived]."""
    found = Counter()
    for number in range(400):
        options, place = shuffled(f"q{number}", "right", ["a", "b", "c"])
        assert options[place] == "right"
        assert sorted(options) == ["a", "b", "c", "right"]
        assert shuffled(f"q{number}", "right", ["a", "b", "c"]) == (options, place)
        found[place] += 1
    assert all(65 <= found[place] <= 135 for place in range(4)), found
