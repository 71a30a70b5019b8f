"""The recipes for one card: what they need by the plan, from the configurations of their models."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from model.estimate import HARDWARE
from model.presets import shape
from scripts import plan
from tests.unit.scripts.test_plan import SMOLLM2_1_7B
from workbench.placement import Node, lines, settle
from workbench.recipe import load

ROOT = Path(__file__).resolve().parents[3]


def planned(name: str, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = load(ROOT / "recipes" / name, [f"stages.base.source.path={folder}"])
    return plan.build(recipe, HARDWARE["h100"])


def nano2_9b() -> dict[str, Any]:
    s = dataclasses.asdict(shape("nano2-9b"))
    return {**s, "model_type": "nemotron_h", "hybrid_override_pattern": s["pattern"]}


@pytest.mark.parametrize(
    ("name", "config", "parameters", "card", "stages"),
    [
        ("one-gpu.yaml", SMOLLM2_1_7B, 1_711_376_384, 24, ["sft", "grpo"]),
        ("nano2-9b-lora.yaml", nano2_9b(), 8_888_227_328, 80, ["sft", "grpo", "curves"]),
    ],
)
def test_a_recipe_fits_the_card_it_is_for(
    name: str, config: dict[str, Any], parameters: int, card: int, stages: list[str], tmp_path: Path
) -> None:
    found = planned(name, config, tmp_path)
    assert found["model"]["parameters"] == parameters
    for stage in stages:
        words = found["stages"][stage].get("cards", "")
        fitting = [int(w.split("fits ")[1].split()[0]) for w in words.split("; ") if "fits" in w]
        assert not found["stages"][stage]["loads"] or fitting[0] <= card, (stage, words)


def test_stage_and_engine_of_one_gpu_share_it_without_a_word() -> None:
    recipe = settle(load(ROOT / "recipes" / "one-gpu.yaml"), [Node(8, 1)])
    assert lines(recipe.stages["grpo"]) == ("on: stage: 35% of a card; engine: 60% of a card",)
    assert lines(recipe.stages["base"]) == ()
