"""Trainings on rows are validated: best weights, early end, and a kill in the middle of a validation."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import pretrain.stage
import rl.preference.stage
import rl.reward_model.stage
import sft.stage
from model.hybrid import save_model
from rl.preference.stage import moved
from rl.preference.validation import margin_estimates
from sft.validation import split_share
from tests import tiny
from tests.unit.rl.test_preference import PAIRS, REPLIES, small, written
from workbench import validation
from workbench.checkpoint import load_state
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext
from workbench.tracking import read_metrics

KINDS: dict[str, Callable[[StageContext], None]] = {
    "pretrain": pretrain.stage.run,
    "sft": sft.stage.run,
    "offline_dpo": rl.preference.stage.run,
    "kto": rl.preference.stage.run,
    "reward_model": rl.reward_model.stage.run,
}
STEPS = 5


def section(folder: Path, kind: str) -> dict[str, Any]:
    """Five steps of a kind at a rate at which it overshoots, validated at each."""
    wanted: dict[str, Any] = {"every": 1, "keep": "best", "patience": 2}
    if kind == "pretrain":
        return tiny.pretrain_stage(
            initial="parent", total_tokens=STEPS * 4 * 64,
            validation={**wanted, "blend": tiny.BLEND, "documents": 6},
        )  # fmt: skip
    if kind == "sft":
        rows = [
            {"messages": [{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p["chosen"]}]}
            for p in PAIRS
        ]  # fmt: skip
        part = {"source": written(folder, "sft", rows, form="messages"), "samples": 12}
        return tiny.sft_stage(
            parts={"own": part}, rows_per_step=2, microbatch_rows=2, epochs=5 * STEPS,
            validation={**wanted, "share": 0.4},
        )  # fmt: skip
    form = "labelled" if kind == "kto" else "pairs"
    given: list[Any] = REPLIES if kind == "kto" else PAIRS
    held = written(folder, "held", given[4:], form=form)
    train = written(folder, "train", given[:4], form=form)
    own = (
        {"prompts": train, "num_prompts": 4}
        if kind == "reward_model"
        else {"source": train, "samples": 4}
    )
    return {
        **own, "held_out": held, "num_held_out": 4, "pairs_per_step": 4, "microbatch_pairs": 4,
        "epochs": STEPS, "warmup_share": 0.0, "checkpoint_every_steps": 2,
        "validation": {**wanted, "num_rows": 4}, "kind": kind,
    }  # fmt: skip


def context(folder: Path, tokenizer: Any, kind: str, **changes: Any) -> StageContext:
    folder.mkdir(exist_ok=True)
    run = RunDir(folder / "run")
    source = run.stage("base")
    if not source.exists():
        save_model(small(5), source / "model", tokenizer)
    own = section(folder, kind) | {"needs": ["base"], "seed": 11} | changes
    base = {"kind": "tokenizer", "blend": tiny.BLEND}
    recipe = build({"name": "t", "stages": {"base": base, "own": own}})
    run.stage("own").mkdir(parents=True, exist_ok=True)
    return StageContext("own", recipe.stages["own"], recipe, run, {"base": source})


class Dies(Exception):
    """The process ends here."""


def by_hand(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], dies_at: int | None = None
) -> None:
    """Validations take their losses from here. dies_at: where the process ends in the middle of one."""
    true_at = validation.Validation.at

    def at(self: Any, step: int, *, last: bool = False) -> dict[str, float]:
        measure = self._measure

        def measured() -> Any:
            if step == dies_at:
                raise Dies
            found = dict(measure())
            assert math.isfinite(found["loss"].value) and found["loss"].stderr >= 0
            value = losses[step]
            return found | {"loss": validation.Estimate(value, 0.0, (value, value), 4)}

        self._measure = measured
        try:
            return true_at(self, step, last=last)
        finally:
            self._measure = measure

    monkeypatch.setattr(validation.Validation, "at", at)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = load_file(folder / "model" / "model.safetensors")
    for path in (folder / "model").glob("*.safetensors"):
        found |= {f"{path.name}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_is_saved_and_a_kill_in_a_validation_costs_nothing(
    kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best at step 2, patience 2: it ends at 4 of 5. Killed while it validates step 4, it continues."""
    losses = [3.0, 2.0, 1.0, 1.5, 1.2, 0.5]
    saved: dict[int, dict[str, torch.Tensor]] = {}
    with monkeypatch.context() as patch:
        by_hand(patch, losses)
        whole = context(tmp_path / "a", tokenizer, kind)
        KINDS[kind](whole)
        whole.close()
        for path in (whole.stage_dir / "checkpoints").glob("step-*.pt"):
            saved[int(path.stem.rsplit("-", 1)[1])] = load_state(path)["model"]
        for path in (whole.stage_dir / "checkpoints").glob("checkpoint-*/anneal_model.pt"):
            saved[int(path.parent.name.rsplit("-", 1)[1])] = load_state(path)
    about = whole.outputs["validation"]
    assert [line["step"] for line in about["history"]] == [0, 1, 2, 3, 4]
    assert (about["best_step"], about["ended_early"]) == (2, True)
    lines = read_metrics(whole.stage_dir / "metrics.jsonl")
    assert [line["validation/loss"] for line in lines] == losses[:5]
    assert [line["step"] for line in lines if "lr" in line] == [1, 2, 3, 4]
    assert {2} <= saved.keys() and len(saved) <= 3
    best = weights(whole.stage_dir)
    # Files name a NemotronH's body otherwise than the model does.
    name = next(n for n in saved[2] if "embed" in n and n.endswith("weight"))
    mine = next(t for n, t in best.items() if n.endswith("embeddings.weight"))
    assert torch.equal(mine, saved[2][name])
    assert not torch.equal(mine, saved[max(saved)][name])

    with monkeypatch.context() as patch:
        by_hand(patch, losses, dies_at=4)
        broken = context(tmp_path / "b", tokenizer, kind)
        with pytest.raises(Dies):
            KINDS[kind](broken)
        broken.close()
    with monkeypatch.context() as patch:
        by_hand(patch, losses)
        again = context(tmp_path / "b", tokenizer, kind)
        KINDS[kind](again)
        again.close()
    assert again.outputs["validation"] == about
    other = weights(again.stage_dir)
    assert other.keys() == best.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in best.items())
    found = read_metrics(again.stage_dir / "metrics.jsonl")
    assert [line["validation/loss"] for line in found] == losses[:5]


def test_margins_of_preferences_by_hand() -> None:
    """[paper] DPO, eq. 7: -log sigmoid(margin). Chosen moved by +1 and rejected by -1: a margin of 2."""
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    before = {"chosen": [-3.0, -3.0], "rejected": [-4.0, -4.0]}
    now = {"chosen": [-2.0, -3.0], "rejected": [-5.0, -4.0]}
    assert moved(rows, before, now) == [2.0, 0.0]
    found = margin_estimates([2.0, 0.0], ["a", "b"])
    expected = (math.log1p(math.exp(-2.0)) + math.log(2.0)) / 2
    assert found["loss"].value == pytest.approx(expected) and found["accuracy"].value == 0.75
    assert margin_estimates([-800.0], ["a"])["loss"].value == pytest.approx(800.0)
    labelled = [{"label": True}, {"label": False}]
    assert moved(labelled, {"reply": [-3.0, -3.0]}, {"reply": [-2.0, -2.0]}) == [1.0, -1.0]


def test_a_share_is_split_by_problem() -> None:
    asked = [
        Conversation(f"{n}", "x", [{"role": "user", "content": f"{n}"}], problem=str(n // 2))
        for n in range(400)
    ]
    kept = list[Any]()
    held_out = split_share(asked, 0.25, seed=1, kept=kept)
    assert len(kept) + len(held_out) == 400 and 70 < len(held_out) < 130
    assert not {c.problem for c in kept} & {c.problem for c in held_out}
    again = (split_share(asked, 0.25, seed=seed, kept=[]) for seed in (1, 2))
    assert next(again) == held_out != next(again)


def test_what_is_validated_by_is_not_trained_on(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    made = section(tmp_path, "sft")
    made["validation"] = {"every": 1, "parts": made["parts"]}
    base = {"kind": "tokenizer", "blend": tiny.BLEND}
    recipe = build({"name": "t", "stages": {"base": base, "own": made | {"needs": ["base"]}}})
    with pytest.raises(UserError, match=r"12 of 12 validation prompts are also trained on"):
        sft.stage.build_rows(recipe.stages["own"], tokenizer, 1, tmp_path / "rows")  # type: ignore[arg-type]
    for wrong, line in (
        ({"every": 1}, "give either parts"),
        ({"every": 1, "share": 0.1, "parts": made["parts"]}, "give either parts"),
        ({"every": 0, "share": 0.1}, "validation.every"),
        ({"every": 1, "share": 0.1, "patience": 0}, "validation.patience"),
    ):
        with pytest.raises(UserError, match=line):
            build({"name": "t", "stages": {"base": base, "own": {**made, "needs": ["base"], "validation": wrong}}})  # fmt: skip
