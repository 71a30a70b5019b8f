"""Numbers of the paper in the recipes of the 12B and 9B, where one follows from others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from model.estimate import HARDWARE
from scripts.plan import build
from workbench.recipe import load

PATHS = [Path("recipes/nano2-12b.yaml"), Path("recipes/nano2-9b.yaml")]


def blends(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The phases of pretraining and of the long-context stage."""
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    first = next(stage for name, stage in stages.items() if name == "pretrain")
    longer = next(stage for name, stage in stages.items() if name == "long-context")
    return first["blend"]["phases"], longer["blend"]["phases"]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_the_long_context_blend_is_phase_3_and_a_fifth_of_questions(path: Path) -> None:
    """Every weight of phase 3 x 0.8, plus 20% questions on long documents [paper]; two decimals."""
    phases, (longer,) = blends(path)
    expected = {name: 0.8 * weight for name, weight in phases[-1]["weights"].items()}
    assert longer["weights"] == pytest.approx({"long-qa": 20, **expected}, abs=0.01)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_phases_switch_where_the_paper_does_and_are_whole(path: Path) -> None:
    """At 60% and 90% of the tokens [paper]; the weights of each are percent."""
    phases, longer = blends(path)
    assert [phase["until"] for phase in phases] == [0.6, 0.9, 1.0]
    for phase in (*phases, *longer):
        assert sum(phase["weights"].values()) == pytest.approx(100, abs=0.02)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_stage_fits_the_cards_it_is_placed_on(path: Path) -> None:
    plan = build(load(path, []), HARDWARE["h100"])
    priced = {(name, one["what"]): one for name, s in plan["stages"].items() for one in s["loads"]}
    assert [key for key, one in priced.items() if not one["fits"]] == []
    # [derived] fp32 weights over 8 cards: 4 P / 8.
    trained = priced["grpo", "training"]["memory"]["weights"]
    assert trained == plan["model"]["parameters"] // 2
