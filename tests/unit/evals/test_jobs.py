"""Who decides a benchmark's settings: its protocol, the stage, the stage's word on that benchmark."""

import argparse
from pathlib import Path

import pytest

from evals.command import _config
from evals.config import EvalsConfig
from evals.jobs import jobs_of
from workbench.errors import UserError
from workbench.recipe import load

STAGE = {
    "kind": "evals",
    "benchmarks": ["ifbench", "ruler-2k"],
    "thinking": ["protocol"],
    "samples": 1,
    "max_tokens": 256,
    "by_benchmark": {"ruler-2k": {"limit": 10, "max_tokens": 100}},
}


def test_the_word_on_one_benchmark_wins_over_the_stage_and_both_over_the_protocol() -> None:
    ifbench, ruler = jobs_of(EvalsConfig.read(STAGE, where="evals"), seed=0)
    assert (ifbench.limit, ifbench.sampling.max_tokens, ifbench.sampling.n) == (None, 256, 1)
    assert (ruler.limit, ruler.sampling.max_tokens, ruler.sampling.n) == (10, 100, 1)
    # Protocols: IFBench at 0.6, RULER greedy; nobody said otherwise.
    assert (ifbench.sampling.temperature, ruler.sampling.temperature) == (0.6, 0.0)


def test_the_command_line_wins_over_all() -> None:
    recipe = load(Path("recipes/smollm2-table.yaml"), [])
    args = argparse.Namespace(benchmarks="ruler-2k,gsm8k-100", budgets=None, samples=None, limit=3)
    config = _config(recipe.stages["evals"], args, ["evals.by_benchmark.ruler-2k.max_tokens=50"])
    ruler, gsm = jobs_of(config, seed=0)
    assert (ruler.limit, ruler.sampling.max_tokens) == (3, 50)
    assert (gsm.limit, gsm.sampling.max_tokens) == (3, 256)


def test_a_benchmark_that_is_none_names_the_nearest() -> None:
    config = EvalsConfig.read({**STAGE, "by_benchmark": {"ifbnch": {"limit": 1}}}, where="evals")
    with pytest.raises(UserError, match="ifbench"):
        jobs_of(config, seed=0)
