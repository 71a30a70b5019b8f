"""With `lora` a checkpoint of every TRL trainer holds what is trained alone, once, and continues to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rl.dpo import stage as dpo_stage
from tests.unit.rl import test_dpo, test_validated_trainers
from tests.unit.rl.test_validated_trainers import weights
from workbench.checkpoint import load_state
from workbench.errors import StopRequested
from workbench.stage import StageContext

_LORA = {"rank": 2, "alpha": 4}
_CASES = [
    ("sft", "float32"), ("offline_dpo", "float32"), ("kto", "float32"), ("reward_model", "float32"),
    ("dpo", "float32"), ("sft", "nf4"),
]  # fmt: skip


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Path, Any], StageContext]:
    """(kind, base, folder, tokenizer) -> a stage of a few steps with adapters, a checkpoint every second."""
    plain = test_validated_trainers.section
    monkeypatch.setattr(test_validated_trainers, "STEPS", 4)

    def made(kind: str, base: str, folder: Path, tokenizer: Any) -> StageContext:
        own: dict[str, Any] = {"lora": {**_LORA, "base": base}, "checkpoint_every_steps": 2}
        if kind == "dpo":
            engine = test_dpo._engine(tokenizer)
            monkeypatch.setattr(dpo_stage, "start_engine", lambda *a, **k: engine)
            few = {"rounds": 1, "pairs_per_task": 1, "trl": {"max_steps": 4}}
            return test_dpo._context(folder, tokenizer, **own, **few)
        own |= {"validation": None, "trl": {"max_steps": 4}}
        monkeypatch.setattr(test_validated_trainers, "section", lambda *args: plain(*args) | own)
        return test_validated_trainers.context(folder, tokenizer, kind)

    return made


def run(context: StageContext, *, stop_after: int | None = None) -> None:
    """To its end, or to the stop that is asked for after so many looks."""
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return stop_after is not None and steps >= stop_after

    context.should_stop = stop  # type: ignore[method-assign]
    kind = context.config.kind
    {**test_validated_trainers.KINDS, "dpo": dpo_stage.run}[kind](context)
    context.close()


@pytest.mark.parametrize(("kind", "base"), _CASES)
def test_checkpoints_hold_adapters_alone_and_continue_to_the_bit(
    kind: str,
    base: str,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    stage: Callable[[str, str, Path, Any], StageContext],
) -> None:
    whole = stage(kind, base, tmp_path / "a", tokenizer)
    run(whole)
    broken = stage(kind, base, tmp_path / "b", tokenizer)
    stop = 3 if kind == "sft" else 2  # it looks once while samples are made
    with pytest.raises(StopRequested):
        run(broken, stop_after=stop)
    broken.close()
    folder = _checkpoint(broken, 2)
    state = load_state(folder / "anneal_model.pt")
    trained = {name for name in state if "lora_" in name}
    # [derived] a of [2, in] and b of [out, 2] for each; a reward model has its head beside them.
    assert len(trained) >= 10 and all(2 in state[name].shape for name in trained)
    assert state.keys() - trained == ({"head.weight"} if kind == "reward_model" else set())
    moments = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    assert len(moments) == len(state)
    assert sum(m["exp_avg"].numel() for m in moments.values()) == sum(
        tensor.numel() for tensor in state.values()
    )
    assert not [p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")]
    kept = sum(p.stat().st_size for p in folder.rglob("*"))
    values = sum(tensor.numel() for tensor in state.values())
    assert (
        12 * values < kept < 12 * values + 100_000
    )  # names, generators and the Trainer's own state

    again = stage(kind, base, tmp_path / "b", tokenizer)
    run(again)
    found, wanted = weights(again.stage_dir), weights(whole.stage_dir)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    logged = [
        [
            (line["step"], line.get("loss"))
            for line in map(json.loads, (context.stage_dir / "metrics.jsonl").open())
        ]
        for context in (whole, again)
    ]
    assert logged[0] == logged[1] and [step for step, _ in logged[0]] == [1, 2, 3, 4]


def _checkpoint(context: StageContext, step: int) -> Path:
    """The newest one, which must be of this step."""
    (found,) = (context.stage_dir / "checkpoints").rglob("checkpoint-*")
    assert found.name == f"checkpoint-{step}"
    return found
