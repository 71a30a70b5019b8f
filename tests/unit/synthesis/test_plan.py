"""What a synthesis is going to ask, by hand."""

from typing import Any

import pytest

from data_mix.rates import Expected, load_of
from evals.synthesis.plan import plan_synthesize
from workbench.load import AskedLoad
from workbench.recipe import load
from workbench.registry import kind, resolve

RECIPE = load("recipes/nano2-data.yaml")


def asked(stage: str) -> dict[str, AskedLoad]:
    config: Any = RECIPE.stages[stage]
    return {
        one.model: one for one in plan_synthesize(config, RECIPE).data if isinstance(one, AskedLoad)
    }


def test_stem_is_seeds_times_rounds_times_prompts_times_a_problem_and_eight_answers() -> None:
    """88,600 x 3 x 3 x (1 + 8) = 7,176,600 replies for each of four models, of 2,000 tokens."""
    found = asked("stem")
    assert len(found) == 4 and {one.replies for one in found.values()} == {7_176_600}
    assert {one.reply_tokens for one in found.values()} == {14_353_200_000}


def test_the_solver_answers_for_every_writer() -> None:
    """Two writers: 600,000 problems each; the solver has the 2 x 600,000 x 8 answers and its own problems."""
    found = {name.partition("/")[2]: one.replies for name, one in asked("fr-sft").items()}
    assert found == {"Qwen3-30B-A3B": 600_000, "DeepSeek-V3": 600_000 + 9_600_000}


def test_a_long_documents_prompts_are_its_chunks() -> None:
    """A tenth of 38,000 / 1,024 chunks is 4; each request shows 1,024 tokens and our 120."""
    (one,) = asked("long-documents").values()
    assert (one.replies, one.prompt_tokens) == (400_000, 400_000 * (1024 + 120))


def test_dialogues_give_the_papers_73b_tokens() -> None:
    (one,) = asked("math-dialogues").values()
    assert one.reply_tokens == pytest.approx(73e9, rel=0.01) and not one.bound


def test_a_crawl_is_priced_by_its_bytes() -> None:
    """10 pages of 110,000 bytes at 1.1 MB a second and core: a second; text a fifth, a third of it written."""
    (one,) = load_of(
        Expected(rows=10, row_bytes=110_000, from_network=True), ["equations+html lynx"], kept=0.2
    )
    assert (one.core_seconds, one.disk_bytes) == (1.0, 72_600)
    assert one.traffic_bytes == 1_100_000 + 72_600
    config: Any = RECIPE.stages["math-pages"]
    (pages,) = resolve(kind("curate").plan)(config, RECIPE).data
    assert pages.core_seconds == pytest.approx(229.54e6 * 43_000 / 1.1e6)
