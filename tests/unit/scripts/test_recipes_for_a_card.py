"""The recipes for one card: what they need by the plan, from the configurations of their models."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from model.estimate import HARDWARE
from model.presets import shape
from scripts import plan, run_stage
from tests.unit.scripts.test_plan import QWEN3_8B, SMOLLM2_1_7B
from workbench import placement
from workbench.errors import UserError
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


def test_a_plan_counts_what_waits_on_the_host_of_one_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2_1_7B), encoding="utf-8")
    sets = [f"stages.base.source.path={tmp_path}", "stages.grpo.engine.sleep=true"]
    recipe = load(ROOT / "recipes" / "one-gpu.yaml", sets)
    found = {}
    for name in ("rtx4090", "h100"):
        loads = plan.build(recipe, HARDWARE[name])["stages"]["grpo"]["loads"]
        (found[name],) = (one["host"]["offloaded"] for one in loads if one["what"] == "training")
    assert (
        found["rtx4090"] > 2 * 1_711_376_384 and found["h100"] == 0
    )  # of eight cards each has its own


def test_stage_and_engine_of_one_gpu_share_it_without_a_word() -> None:
    recipe = settle(load(ROOT / "recipes" / "one-gpu.yaml"), [Node(8, 1)])
    assert lines(recipe.stages["grpo"]) == ("on: stage: 35% of a card; engine: 60% of a card",)
    assert lines(recipe.stages["base"]) == ()


def qwen_on(card: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`one-gpu.yaml` with an 8B whose SFT trains all weights, on a machine with one card of so many bytes: what
    a dry run is given."""
    monkeypatch.setattr(placement, "local_cards", lambda: 1)
    monkeypatch.setattr(placement, "local_memory", lambda: [card])
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    sets = [
        f"stages.base.source.path={folder}", "stages.sft.lora=null", f"runs_dir={folder / 'runs'}"
    ]  # fmt: skip
    words = ["sft", "--dry-run", "--recipe", str(ROOT / "recipes" / "one-gpu.yaml")]
    return [*words, *(word for said in sets for word in ("--set", said))]


def dry_run(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    run_stage.arguments(parser)
    return run_stage.run(parser.parse_args(words))


def test_a_load_that_its_card_cannot_hold_is_refused_in_the_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[derived] 18 bytes a parameter of 8.19e9 are 137 GiB, and a card of 24 GB has 22.4."""
    words = qwen_on(24e9, tmp_path, monkeypatch)
    with pytest.raises(UserError) as caught:
        dry_run(words)
    line = str(caught.value)
    assert line.startswith("stage 'sft': its training needs 1") and "of 22.4 GiB" in line
    assert "change lora: {rank: 16, base: bfloat16}" in line and "\n" not in line
    assert not (tmp_path / "runs").exists()


def test_a_card_that_is_large_enough_or_only_declared_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(qwen_on(192e9, tmp_path, monkeypatch)) == 0
    declared = ["--set", "cluster.num_gpus=1"]
    assert dry_run([*qwen_on(24e9, tmp_path, monkeypatch), *declared]) == 0
    assert "on: stage: 1 card" in capsys.readouterr().out
