"""SFT, GRPO, DPO and a reward model, two steps each, of tiny models of twelve families.

A family whose documents cannot be isolated in a row (DeltaNet, windows, no replaceable attention) takes them one
by one, and its stage says so once. Every family passes SFT here; those that differ most pass all four, and the
other pairs are under `-m stress`.
"""

import importlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from model.hybrid import load_model, save_model
from tests.unit.conftest import tokenizer  # noqa: F401 - a fixture
from tests.unit.model import test_families as families
from tests.unit.rl import test_dpo, test_grpo_stage, test_validated_trainers
from workbench import registry
from workbench.rundir import RunDir
from workbench.stage import StageContext
from workbench.tracking import read_metrics

pytestmark = pytest.mark.integration
DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
}  # fmt: skip
# Name -> family, its sizes, and a word of why documents go one by one; none where rows are packed.
TWELVE: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", {}, ""),
    "qwen3": ("qwen3", {}, ""),
    "mixtral": (*families.PACKED["mixtral"], ""),
    "olmoe": (*families.PACKED["olmoe"], ""),
    "qwen3, experts": (*families.PACKED["qwen3 experts"], ""),
    "nemotron, experts": (*families.PACKED["nemotron, experts"], ""),
    "granite, experts": (*families.PACKED["granite, experts"], ""),
    "falcon": (*families.PACKED["falcon"], ""),
    "zamba2": (*families.PACKED["zamba2"], ""),
    "mistral": ("mistral", families.WINDOW, "windows"),
    "gpt-oss": ("gpt_oss", families.FAMILIES["gpt_oss"][0], "windows"),
    "qwen3-next": ("qwen3_next", DELTA, "carries state"),
}
WHOLE = ("granite, experts", "mistral", "gpt-oss", "qwen3-next")
# Twelve conversations in one row, twice.
PACKED = {
    "concatenate": True, "row_tokens": 2048, "rows_per_step": 1, "microbatch_rows": 1, "epochs": 2,
}  # fmt: skip
Made = Callable[[Path, Any, Any], StageContext]


def _on_rows(kind: str, **changes: Any) -> Made:
    """Two steps of a training on given rows."""

    def made(folder: Path, words: Any, model: Any) -> StageContext:
        save_model(model, RunDir(folder / "run").stage("base") / "model", words)
        return test_validated_trainers.context(folder, words, kind, validation=None, **changes)

    return made


def _grpo(folder: Path, words: Any, model: Any) -> StageContext:
    rows = [test_grpo_stage.row("a"), test_grpo_stage.row("b")]
    return test_grpo_stage.context_of(folder, words, rows, model)


def _dpo(folder: Path, words: Any, model: Any) -> StageContext:
    """A pair of each of six tasks, three a step."""
    save_model(model, RunDir(folder / "run").stage("sft") / "model", words)
    return test_dpo._context(
        folder, words, rounds=1, samples=2, pairs_per_step=3, microbatch_pairs=3
    )


STAGES: dict[str, tuple[Made, tuple[str, Callable[[Any], Any]] | None]] = {
    "sft": (_on_rows("sft", **PACKED), None),
    "grpo": (_grpo, ("rl.stage", test_grpo_stage.engine_of)),
    "dpo": (_dpo, ("rl.dpo.stage", test_dpo._engine)),
    "reward_model": (_on_rows("reward_model"), None),
}


def _product() -> list[Any]:
    """Every stage with every family; most of them in the tier that takes its time."""
    return [
        pytest.param(
            name, stage, id=f"{name}-{stage}",
            marks=() if stage == "sft" or name in WHOLE else pytest.mark.stress,
        )
        for name in TWELVE
        for stage in STAGES
    ]  # fmt: skip


def _model(name: str, vocabulary: int) -> Any:
    family, changes, _ = TWELVE[name]
    sizes = families.SIZES | changes | {"vocab_size": vocabulary}
    wanted = {key: value for key, value in sizes.items() if value is not None}
    return load_model(AutoConfig.for_model(family, **wanted), seed=7)


@pytest.mark.parametrize(("name", "stage"), _product())
def test_a_stage_trains_a_family(
    name: str,
    stage: str,
    tokenizer: PreTrainedTokenizerFast,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two steps with finite losses, other weights in a checkpoint of the same family, and the reason said once."""
    monkeypatch.setattr(test_validated_trainers, "STEPS", 2)
    made, sampled = STAGES[stage]
    if sampled:
        module, engine_of = sampled
        engine = engine_of(tokenizer)
        monkeypatch.setattr(importlib.import_module(module), "start_engine", lambda *a, **k: engine)
    model = _model(name, len(tokenizer))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    context = made(tmp_path, tokenizer, model)
    with caplog.at_level(logging.WARNING):
        registry.resolve(registry.kind(stage).run)(context)
    context.close()

    lines = [line for line in read_metrics(context.stage_dir / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)
    said = [text for r in caplog.records if "one document at a time" in (text := r.getMessage())]
    reason = TWELVE[name][2]
    assert len(said) == bool(reason) and all(reason in text for text in said)
    after = _trained(context.stage_dir / "model", stage)
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(changed) > len(before) / 2


def _trained(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    """The model that a stage left, as transformers reads it; of a reward model its body."""
    if stage == "reward_model":
        from reward.score_model import load_score_model

        return dict(load_score_model(folder).causal.state_dict())
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())
