"""Pruning as a stage of a recipe, and what it leaves: a checkpoint that engines load."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import (
    BLEND,
    PATIENCE_S,
    each_step_once,
    finish,
    manifest,
    pretrain_stage,
    start,
    tokenizer_stage,
    wait_for_step,
    write_recipe,
)

pytestmark = pytest.mark.integration

NUM_STEPS = 60

MODEL = {"preset": "miniature", "overrides": {"pattern": "M*-M-", "hidden_size": 64}}


def prune_stage(**changes: Any) -> dict[str, Any]:
    base = {
        "kind": "prune", "needs": ["pretrain"], "blend": BLEND, "samples": 4, "row_tokens": 64,
        "microbatch_rows": 2, "threads": 1,
        "target": {"layers": 4, "hidden_size": 48, "ffn": 320, "mamba_heads": 6, "mamba_head_dim": 16},
    }  # fmt: skip
    return base | changes


def distill_stage(**changes: Any) -> dict[str, Any]:
    """8 steps of 4 rows of 64 tokens, from the unpruned model."""
    base = pretrain_stage(
        kind="distill", needs=["prune", "pretrain"], teacher="pretrain",
        schedule={"peak_lr": 3e-3, "min_lr": 1e-4}, held_out=BLEND, held_out_rows=4,
    )  # fmt: skip
    return base | changes


def test_a_model_is_pruned_and_distilled_and_engines_load_it(tmp_path: Path) -> None:
    stages = {
        "tokenizer": tokenizer_stage(), "pretrain": pretrain_stage(),
        "prune": prune_stage(random_draws=2, held_out=BLEND, held_out_rows=4),
        "distill": distill_stage(),
    }  # fmt: skip
    finish("all", "--recipe", str(write_recipe(tmp_path, stages, model=MODEL)))
    run = tmp_path / "runs" / "tiny"
    made = manifest(run, "prune")["outputs"]
    assert len(made["removed_layers"]) == 1
    assert made["removed_layers"][0]["kind"] in "M-"
    assert made["parameters"] < made["parameters_before"]
    (chance,) = made["differences"]
    assert len(set(made["random_kl"])) == 2 and chance["difference"]["n"] == 4
    assert chance["before"]["value"] == pytest.approx(sum(made["random_kl"]) / 2)
    assert (
        0 < chance["after"]["value"] < 10
    )  # of whole and pruned model, not of the pruned with itself
    each_step_once(run, "distill", 8)
    assert "Loss of distill by tokens" in (run / "report.html").read_text()
    distance = manifest(run, "distill")["outputs"]["distance"]
    assert distance["n"] == 4
    assert distance["kl"]["difference"]["value"] < 0
    assert 0 < distance["agreement"]["after"]["value"] <= 1
    check_engine(run / "prune" / "model")


def check_engine(folder: Path) -> None:
    """vLLM's log-probabilities of its own samples are those of the trainer's model."""
    from engine.config import EngineConfig
    from engine.protocol import Sampling
    from engine.vllm_engine import VllmEngine
    from model.hybrid import load_model

    model = load_model(folder).eval()
    assert len(model.model.layers) == 4
    draw = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(20, model.config.vocab_size, (n,), generator=draw).tolist()
        for n in (3, 70, 140)
    ]
    engine = VllmEngine(str(folder), EngineConfig(max_model_len=256, max_num_seqs=4))
    try:
        groups = engine.generate(prompts, Sampling(max_tokens=16, seed=1))
    finally:
        engine.close()
    for prompt, (done,) in zip(prompts, groups, strict=True):
        ids = torch.tensor([[*prompt, *done.token_ids]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        reply = torch.tensor(done.token_ids)[:, None]
        want = torch.log_softmax(logits, -1).gather(1, reply)[:, 0].tolist()
        assert done.logprobs == pytest.approx(want, abs=1e-5)


def test_a_killed_distillation_ends_equal_to_the_bit(tmp_path: Path) -> None:
    ends = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        stages = {
            "tokenizer": tokenizer_stage(), "pretrain": pretrain_stage(), "prune": prune_stage(),
            "distill": distill_stage(total_tokens=NUM_STEPS * 256, seed=5),
        }  # fmt: skip
        recipe = write_recipe(folder, stages, model=MODEL, cluster={"backend": "local"})
        run = folder / "runs" / "tiny"
        if name == "killed":
            driver = start("all", "--recipe", str(recipe))
            wait_for_step(driver, run, "distill", 10)
            os.killpg(driver.pid, signal.SIGKILL)
            driver.communicate(timeout=PATIENCE_S)
            assert manifest(run, "distill")["status"] == "running"
        finish("all", "--recipe", str(recipe))
        each_step_once(run, "distill", NUM_STEPS)
        distance = manifest(run, "distill")["outputs"]["distance"]
        ends.append(((run / "distill/model/model.safetensors").read_bytes(), distance))
    assert manifest(run, "distill")["attempts"] == 2
    assert manifest(run, "prune")["attempts"] == 1
    assert ends[0] == ends[1]
