"""Numbers of the paper in the recipes of the 12B and 9B, where one follows from others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from model.estimate import HARDWARE
from scripts.plan import build
from scripts.plan_text import lines
from workbench.recipe import load

PAPER = Path("recipes/nano2-12b.yaml")
PATHS = [PAPER, Path("recipes/nano2-9b.yaml"), Path("recipes/nano2-9b-posttrain.yaml")]


def blends() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The phases of pretraining and of the long-context stage."""
    stages = yaml.safe_load(PAPER.read_text(encoding="utf-8"))["stages"]
    return stages["pretrain"]["blend"]["phases"], stages["long-context"]["blend"]["phases"]


def test_the_long_context_blend_is_phase_3_and_a_fifth_of_questions() -> None:
    """Every weight of phase 3 x 0.8, plus 20% questions on long documents [paper]; two decimals."""
    phases, (longer,) = blends()
    expected = {name: 0.8 * weight for name, weight in phases[-1]["weights"].items()}
    assert longer["weights"] == pytest.approx({"long-qa": 20, **expected}, abs=0.01)


def test_phases_switch_where_the_paper_does_and_are_whole() -> None:
    """At 60% and 90% of the tokens [paper]; the weights of each are percent."""
    phases, longer = blends()
    assert [phase["until"] for phase in phases] == [0.6, 0.9, 1.0]
    for phase in (*phases, *longer):
        assert sum(phase["weights"].values()) == pytest.approx(100, abs=0.02)


def test_rlhf_asks_in_english_and_grpo_samples_as_the_published_run() -> None:
    """[paper] English contexts of HelpSteer3. [code] temperature 0.9 with top_p 0.95."""
    stages = load(PAPER, []).stages
    rlhf: Any = stages["rlhf"]
    assert rlhf.prompts.where == rlhf.held_out.where == {"language": "english"}
    assert (rlhf.temperature, rlhf.top_p) == (0.9, 0.95)


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def plan(request: pytest.FixtureRequest) -> dict[str, Any]:
    return build(load(request.param, []), HARDWARE["h100"])


def test_every_stage_fits_the_cards_and_machines_it_is_placed_on(plan: dict[str, Any]) -> None:
    priced = {(name, one["what"]): one for name, s in plan["stages"].items() for one in s["loads"]}
    assert [key for key, one in priced.items() if not one["fits"]] == []
    assert [key for key, one in priced.items() if not one.get("host", {"fits": True})["fits"]] == []
    assert "(!)" not in "\n".join(lines(plan))
    # [derived] fp32 weights over 8 cards: 4 P / 8.
    assert priced["grpo", "training"]["memory"]["weights"] == plan["model"]["parameters"] // 2
    # All that trains, scores or generates is priced.
    free = {name for name, stage in plan["stages"].items() if not stage["loads"]}
    assert free <= {"tokenizer", "base"}


def test_the_9b_is_made_of_the_12b_as_the_paper_says() -> None:
    """[paper] 60B tokens after depth, 50B, 25B at 49,152 and 1B at 262,144 after width, 0.4B after GRPO: taught by
    the aligned 12B; then RLHF, merged half and half. Rounded up to whole steps."""
    recipe = load(PATHS[2], [])
    plan = build(recipe, HARDWARE["h100"])
    taught = {
        name: stage["loads"][0]
        for name, stage in plan["stages"].items()
        if stage["kind"] == "distill"
    }
    assert {
        name: (one["row_tokens"], round(one["tokens"] / 1e9, 1)) for name, one in taught.items()
    } == {
        "distill-depth": (8192, 60.0),
        "distill-width": (8192, 50.0),
        "distill-49k": (49152, 25.0),
        "distill-262k": (262144, 1.0),
        "distill-repair": (262144, 0.4),
    }
    assert {one["beside"][0]["stage"] for one in taught.values()} == {"merge"}
    merged: Any = recipe.stages["merge-9b"]
    assert merged.alphas == [0.5] and merged.needs == ["distill-repair", "rlhf-9b"]
    # [derived] candidate 2 of Table 10 within the layers that pruning is free to choose.
    assert plan["stages"]["distill-262k"]["loads"][0]["trained_parameters"] == pytest.approx(
        8.888e9, rel=0.03
    )
    assert not {"pretrain", "long-context", "tokenizer"} & set(recipe.stages)
