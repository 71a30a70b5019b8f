"""What a part of a stage found is in the manifest before the next part begins, whatever ends it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.hybrid import build_config, load_model, save_model
from model.tokenizer import train_tokenizer
from pretrain import stage as pretrain_stage
from pretrain.compress import distill
from pretrain.compress import stage as prune_stage
from pretrain.compress.config import DistillConfig, PruneConfig
from pretrain.compress.depth import removal_errors
from rl import stage as grpo_stage
from rl.reward_model import stage as reward_stage
from sft import stage as sft_stage
from workbench.recipe import build
from workbench.rundir import Manifest, RunDir
from workbench.stage import StageContext

SMALL: dict[str, Any] = {
    "pattern": "M-*-M-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 400,
}  # fmt: skip
BLEND: dict[str, Any] = {
    "sources": {"math": {"type": "pretraining", "category": "math"}},
    "phases": [{"until": 1.0, "weights": {"math": 1}}],
}
WORLD = {"type": "world", "domain": "conversation"}


class Killed(BaseException):
    """As kill -9: nothing of the stage's own code runs after it."""


def killed(*args: Any, **kwargs: Any) -> Any:
    raise Killed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    tokenizer = train_tokenizer(["one and two are three"] * 9, 290, folder / "tokenizer")
    return save_model(load_model(build_config(**SMALL), seed=1), folder / "model", tokenizer)


def context_of(tmp_path: Path, model: Path, body: dict[str, Any]) -> StageContext:
    """A stage that was started, with a model before it; its outputs are those of its manifest."""
    run = RunDir(tmp_path / "run")
    for name in ("base", "other"):
        if not (run.stage(name) / "model").exists():
            run.stage(name).mkdir(parents=True)
            (run.stage(name) / "model").symlink_to(model)
    base = {"kind": "tokenizer", "blend": BLEND}
    whole = {"needs": ["base", "other"], **body}
    recipe = build({"name": "t", "stages": {"base": base, "other": base, "stage": whole}})
    manifest = run.manifest("stage")
    if manifest is None:
        manifest = Manifest("stage", str(body["kind"]), "running", {}, "", 0)
        run.write_manifest(manifest)
    inputs = {name: run.stage(name) for name in ("base", "other")}
    config = recipe.stages["stage"]
    return StageContext("stage", config, recipe, run, inputs, dict(manifest.outputs))


def on_disk(context: StageContext) -> dict[str, Any]:
    manifest = context.run.manifest("stage")
    assert manifest is not None
    return manifest.outputs


PRUNE = {"kind": "prune", "target": {"layers": 3}, "blend": BLEND, "samples": 2, "row_tokens": 32}


def test_a_killed_pruning_continues_behind_its_last_round(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of six layers go; killed in the third round. The second attempt makes that round alone."""
    assert isinstance(context_of(tmp_path / "whole", model, PRUNE).config, PruneConfig)
    whole = context_of(tmp_path / "whole", model, PRUNE)
    prune_stage.run(whole)
    rounds: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        rounds.append(1)
        if len(rounds) == 3:
            raise Killed
        return removal_errors(*args, **kwargs)

    monkeypatch.setattr("pretrain.compress.depth.removal_errors", counted)
    first = context_of(tmp_path / "killed", model, PRUNE)
    with pytest.raises(Killed):
        prune_stage.run(first)
    first.close()
    assert on_disk(first)["removed_layers"] == json.loads(
        json.dumps(whole.outputs["removed_layers"][:2])
    )
    again = context_of(tmp_path / "killed", model, PRUNE)
    prune_stage.run(again)
    assert len(rounds) == 4
    removed = [[r["layer"] for r in c.outputs["removed_layers"]] for c in (whole, again)]
    assert removed[0] == removed[1]
    steps = [json.loads(x)["step"] for x in (again.stage_dir / "metrics.jsonl").open()]
    assert steps == [1, 2, 3]


def test_a_killed_distillation_has_its_distance_before(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {
        "kind": "distill", "teacher": "other", "total_tokens": 64, "row_tokens": 32, "rows_per_step": 2,
        "blend": BLEND, "held_out": BLEND, "held_out_rows": 2, "precision": "fp32", "threads": 1,
    }  # fmt: skip
    context = context_of(tmp_path, model, body)
    assert isinstance(context.config, DistillConfig)
    for name in ("base", "other"):  # two folders, of one model
        (context.inputs[name] / "model").unlink()
        tokenizer = distill.read_tokenizer(model)
        save_model(load_model(model), context.inputs[name] / "model", tokenizer)
    monkeypatch.setattr(pretrain_stage.Trainer, "fit", killed)
    with pytest.raises(Killed):
        distill.run(context)
    kept = on_disk(context)
    assert len(kept["held_out_before"]["kl"]) == 2
    assert kept["parameters"] > 0 and kept["phases"][0]["end_token"] == 64


def test_a_killed_sft_has_the_account_of_its_data(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"p": {"source": WORLD, "samples": 3}}
    context = context_of(tmp_path, model, {"kind": "sft", "parts": parts, "row_tokens": 2048})
    monkeypatch.setattr(sft_stage, "_train", killed)
    with pytest.raises(Killed):
        sft_stage.run(context)
    assert on_disk(context)["data"] == context.outputs["data"]
    assert on_disk(context)["warnings"] == []


def test_a_killed_grpo_has_its_reward_before(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {
        "kind": "grpo", "prompts": WORLD | {"split": "rl"}, "held_out": WORLD | {"split": "test"},
        "num_prompts": 16, "num_held_out": 2,
    }  # fmt: skip
    asked: list[str] = []

    def measured(sampler: Any, questions: Any, seed: int, when: str) -> dict[str, list[float]]:
        asked.append(when)
        return {f"held_out_{when}": [0.0, 1.0], f"held_out_checker_{when}": [1.0, 1.0]}

    monkeypatch.setattr(grpo_stage, "start_engine", lambda *a, **k: SimpleNamespace())
    monkeypatch.setattr(grpo_stage, "held_out_rewards", measured)
    monkeypatch.setattr(grpo_stage.Grpo, "fit", killed)
    for _ in range(2):
        context = context_of(tmp_path, model, body)
        with pytest.raises(Killed):
            grpo_stage.run(context)
        assert on_disk(context) == {
            "held_out_before": [0.0, 1.0], "held_out_checker_before": [1.0, 1.0], "warnings": [],
            "rows": {
                "prompts": {"rows": 16, "kept": 16}, "held_out": {"rows": 2, "kept": 2}
            },
        }  # fmt: skip
    assert asked == ["before"]


def test_a_killed_reward_model_has_the_account_of_its_pairs(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"kind": "reward_model", "prompts": WORLD, "held_out": WORLD | {"split": "test"}}
    row = {"prompt": "q", "chosen_ids": [5, 6], "rejected_ids": [5, 7]}
    data = {name: {"rows": [row], "account": {"pairs": 1}} for name in ("train", "held_out")}
    monkeypatch.setattr(reward_stage, "_data", lambda *a: data)
    monkeypatch.setattr(reward_stage, "_train", killed)
    context = context_of(tmp_path, model, body)
    with pytest.raises(Killed):
        reward_stage.run(context)
    assert on_disk(context)["pairs"] == {"train": {"pairs": 1}, "held_out": {"pairs": 1}}
    torch.set_num_threads(1)


def test_a_begun_account_is_worth_keeping(tmp_path: Path, model: Path) -> None:
    """Two hours of pruning rounds must not be thrown away for an attempt that failed on a typo."""
    context = context_of(tmp_path, model, PRUNE)
    context.note(removed_layers=[{"layer": 1}])
    context.run.set_aside("stage")
    context_of(tmp_path, model, PRUNE)
    context.run.set_aside("stage")
    kept = json.loads((context.run.root / ".replaced/stage/manifest.json").read_text())
    assert kept["outputs"]["removed_layers"] == [{"layer": 1}]


def test_a_warning_stays_when_the_stage_begins_again(tmp_path: Path, model: Path) -> None:
    """A lost worker's, say, where the next attempt has warnings of its own; each is there once."""
    parts = {"p": {"source": WORLD, "samples": 3}}
    context = context_of(tmp_path, model, {"kind": "sft", "parts": parts, "row_tokens": 2048})
    context.warn("a worker was lost")
    context.warn("rows were left out")
    context.warn("rows were left out")
    assert on_disk(context)["warnings"] == ["a worker was lost", "rows were left out"]
