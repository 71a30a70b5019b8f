"""Every stage kind that computes, on a stand-in for a card, and where it computed.

python -m tests.card_stages TOKENIZER FOLDER KIND...: a JSON line a kind. Engines are scripted.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.optim import optimizer
from transformers import PreTrainedTokenizerFast

from model.hybrid import load_model, save_model
from reward.score_model import ScoreModel, save_score_model
from tests import tiny
from tests.card import Watch, install, tensors_of
from tests.unit.rl import (
    test_distill,
    test_dpo,
    test_grpo_stage,
    test_validated_trainers,
)
from tests.unit.rl.test_preference import small
from workbench import registry
from workbench.distributed import group
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext

LORA = {"rank": 2, "alpha": 4, "base": "float32"}
# As on a card: autocast over fp32, and adapters over a frozen base in bf16.
IN_BF16 = {"precision": "bf16"}
NARROW = IN_BF16 | {"lora": LORA | {"base": "bfloat16"}}
IN_4_BITS = IN_BF16 | {"lora": LORA | {"base": "nf4"}}


def _grpo(folder: Path, tokenizer: Any, **changes: Any) -> StageContext:
    rows = [test_grpo_stage.row("a"), test_grpo_stage.row("b")]
    return test_grpo_stage.context_of(folder, tokenizer, rows, **changes)


def _compressed(folder: Path, tokenizer: Any, own: dict[str, Any]) -> StageContext:
    """A stage behind two models that are the same."""
    run = RunDir(folder / "run")
    stages: dict[str, Any] = {}
    for name in ("base", "teacher"):
        save_model(small(5), run.stage(name) / "model", tokenizer)
        stages[name] = {"kind": "tokenizer", "blend": tiny.BLEND}
    recipe = build({"name": "t", "stages": stages | {"own": own | {"needs": [*stages]}}})
    run.stage("own").mkdir(parents=True)
    inputs = {name: run.stage(name) for name in stages}
    return StageContext("own", recipe.stages["own"], recipe, run, inputs)


def _prune(folder: Path, tokenizer: Any) -> StageContext:
    target = {"layers": 3, "hidden_size": 24, "ffn": 48, "mamba_heads": 2}
    return _compressed(
        folder, tokenizer,
        {"kind": "prune", "blend": tiny.BLEND, "samples": 2, "row_tokens": 64, "microbatch_rows": 1,
         "threads": 1, "target": target},
    )  # fmt: skip


def _distill(folder: Path, tokenizer: Any) -> StageContext:
    body = tiny.pretrain_stage(
        kind="distill", teacher="teacher", total_tokens=2 * 4 * 64, held_out=tiny.BLEND,
        held_out_rows=2, schedule={"peak_lr": 3e-3, "min_lr": 1e-4},
    )  # fmt: skip
    return _compressed(folder, tokenizer, body)


def _ablation(folder: Path, tokenizer: Any) -> StageContext:
    """The table's own work: held-out texts by the models of an arm and of the base."""
    run = RunDir(folder / "run")
    body = {
        "kind": "ablation", "needs": ["tokenizer", "base"], "base": "base", "blend": tiny.BLEND,
        "arms": {"one": {}, "other": {}}, "seeds": [1, 2], "train": {"total_tokens": 256, "row_tokens": 64},
        "held_out": {"sums": {"type": "world", "domain": "math", "split": "test"}},
        "held_out_documents": 2,
    }  # fmt: skip
    base = {"kind": "convert", "source": {"type": "checkpoint", "path": "unread"}}
    stages = {"tokenizer": tiny.tokenizer_stage(), "base": base, "own": body}
    recipe = build({"name": "t", "stages": stages})
    inputs = {name: run.stage(name) for name in recipe.stages["own"].needs}
    for place in inputs.values():
        save_model(small(5), place / "model", tokenizer)
    run.stage("own").mkdir(parents=True)
    return StageContext("own", recipe.stages["own"], recipe, run, inputs)


def _paid(folder: Path, tokenizer: Any) -> StageContext:
    """GRPO whose replies a reward model scores, in the stage's own process."""
    reward = {"kind": "model", "model": "judge"}
    beside = {"judge": tiny.tokenizer_stage()}
    context = _grpo(folder, tokenizer, needs=["sft", "judge"], reward=reward, beside=beside)
    place = context.run.stage("judge")
    model = ScoreModel(load_model(context.parent_model))
    save_score_model(model, place / "model", tokenizer)
    context.inputs["judge"] = place
    return context


def _validated(kind: str, **changes: Any) -> Callable[[Path, Any], StageContext]:
    return lambda folder, tokenizer: test_validated_trainers.context(
        folder, tokenizer, kind, **changes
    )


def _played(**changes: Any) -> Callable[[Path, Any], StageContext]:
    return lambda folder, tokenizer: test_dpo._context(folder, tokenizer, rounds=1, **changes)


# Name of a trial: its kind's own, or the kind with what is special about it behind a dash.
TRIALS: dict[str, Callable[[Path, Any], StageContext]] = {
    "pretrain": _validated("pretrain"),
    "prune": _prune,
    "distill": _distill,
    "sft": _validated("sft"),
    "sft-bf16": _validated("sft", **IN_BF16),
    "sft-lora": _validated("sft", **NARROW),
    "sft-nf4": _validated("sft", **IN_4_BITS),
    "grpo": _grpo,
    "grpo-lora": lambda folder, tokenizer: _grpo(folder, tokenizer, lora=LORA),
    "grpo-bf16": lambda folder, tokenizer: _grpo(folder, tokenizer, **NARROW),
    "grpo-nf4": lambda folder, tokenizer: _grpo(folder, tokenizer, **IN_4_BITS),
    "grpo-kl": lambda folder, tokenizer: _grpo(folder, tokenizer, loss={"kl_coefficient": 0.1}),
    "grpo-paid": _paid,
    "dpo": _played(),
    "dpo-lora": _played(**NARROW),
    "offline_dpo": _validated("offline_dpo"),
    "kto": _validated("kto"),
    "ablation": _ablation,
    "reward_model": _validated("reward_model"),
    "distill_on_policy": lambda folder, tokenizer: test_distill.context(
        folder, tokenizer, num_steps=2
    ),
}
_ENGINES = {
    "grpo": ("rl.stage", test_grpo_stage.engine_of),
    "dpo": ("rl.dpo.stage", test_dpo._engine),
    "distill_on_policy": ("rl.distill.stage", test_distill.engine_of),
}


class Placed:
    """Where modules with weights ran, what they were given, and what optimizers held."""

    def __init__(self) -> None:
        self.modules, self.inputs, self.states = set[str](), set[str](), set[str]()

    def module(self, module: nn.Module, args: Any) -> None:
        """Before a module runs."""
        own = {str(p.device) for p in module.parameters(recurse=False)}
        self.modules |= own
        if own:
            self.inputs |= {str(t.device) for t in tensors_of(args) if t.dim()}

    def step(self, made: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """After an optimizer's step."""
        held = [*tensors_of([made.state[p] for p in made.state]), *made.state]
        self.states |= {str(t.device) for t in held if t.dim()}


def trial(name: str, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Run a kind's stage once."""
    kind = name.split("-")[0]
    placed, watch, error = Placed(), Watch(), ""
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(placed.module),
        optimizer.register_optimizer_step_post_hook(placed.step),
    ]
    module, engine_of = _ENGINES.get(kind, ("rl.stage", lambda tokenizer: None))
    engine = engine_of(tokenizer)
    try:
        context = TRIALS[name](folder, tokenizer)
        run = registry.resolve(registry.kind(kind).run)
        with (
            watch,
            patch.object(importlib.import_module(module), "start_engine", lambda *a, **k: engine),
            patch("evals.ablation.stage._tokens", lambda *a: {}),  # its parts did not run
            patch("transformers.training_args.is_torch_bf16_gpu_available", lambda: True),
        ):
            run(context)
        context.close()
    except Exception:  # noqa: BLE001 - the test that asked prints it
        error = traceback.format_exc()
    for hook in hooks:
        hook.remove()
    return {
        "name": name, "error": error, "on_cpu": dict(watch.on_cpu), "work": sum(watch.on_card.values()),
        "modules": sorted(placed.modules), "inputs": sorted(placed.inputs),
        "states": sorted(placed.states),
    }  # fmt: skip


def main(tokenizer_folder: str, folder: str, *names: str) -> None:
    """All of them."""
    card = install()
    # transformers' trainer takes cuda:0 where torch has CUDA, and for any other device this variable alone.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "card"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    with (
        patch.object(group, "device", lambda: card),
        patch.object(test_validated_trainers, "STEPS", 1),
    ):
        for name in names or TRIALS:
            (where := Path(folder) / name).mkdir()
            print(json.dumps(trial(name, where, tokenizer)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
