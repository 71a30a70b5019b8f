"""The whole stage around a scripted engine that answers right once it was given new weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

import rl.stage
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model, save_model
from model.lora import load_base
from model.lora_config import LoraConfig
from model.weights import canonical
from tests import tiny
from workbench.chat import prompt_ids
from workbench.errors import UserError
from workbench.recipe import load
from workbench.rundir import RunDir
from workbench.stage import StageContext

SHAPE: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def engine_of(tokenizer: PreTrainedTokenizerFast) -> ScriptedEngine:
    """The first reply to a prompt is wrong with the first weights and right with all later ones."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        right = bool(sample % 2) or made.version > 0
        words: list[int] = tokenizer.encode("yes" if right else "no", add_special_tokens=False)
        return [*words, int(tokenizer.eos_token_id or 0)]

    made = ScriptedEngine(script, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    return made


def row(identity: str, text: str = "Agree?", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{identity}: {text}"}]
    check = {"kind": "contains", "reference": ["yes"]}
    return {"id": identity, "domain": "x", "messages": messages, "check": check} | changes


def context_of(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, Any]],
    model: Any = None,
    beside: dict[str, Any] | None = None,
    **changes: Any,
) -> StageContext:
    """beside: further stages of the recipe."""
    sources = {}
    for name, part in (("prompts", rows), ("held_out", [row(f"h{n}") for n in range(3)])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
        sources[name] = {"type": "jsonl", "path": str(path), "form": "conversation"}
    stage = {
        "kind": "grpo", "needs": ["sft"], **sources, "num_prompts": len(rows), "num_held_out": 3,
        "num_steps": 2, "prompts_per_step": 2, "group_size": 2, "max_tokens": 8, "thinking": False,
        "mismatch_kl_limit": 1e9, "engine": {"max_model_len": 64}, **changes,
    }  # fmt: skip
    stages = {"tokenizer": tiny.tokenizer_stage(), "sft": tiny.sft_stage(needs=["tokenizer"])}
    stages |= beside or {}
    recipe = load(str(tiny.write_recipe(folder, stages | {"grpo": stage})), [])
    run, _ = RunDir.of(recipe.runs_dir, "tiny")
    run.stage("grpo").mkdir(parents=True)
    if model is None:
        model = load_model(build_config(**SHAPE, vocab_size=len(tokenizer)), seed=3)
    save_model(model, folder / "sft" / "model", tokenizer)
    return StageContext("grpo", recipe.stages["grpo"], recipe, run, {"sft": folder / "sft"})


@pytest.fixture
def engine(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    made = engine_of(tokenizer)
    monkeypatch.setattr(rl.stage, "start_engine", lambda *args: made)
    return made


def test_the_lift_is_what_training_bought_and_bad_rows_are_left_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, engine: ScriptedEngine
) -> None:
    """Held out, every first reply is wrong before and right after: the lift is +1 and never -1."""
    rows = [
        row("a"),
        row("b"),
        row("long", "word " * 60),
        row("b"),
        row("c", check={"kind": "math"}),
    ]
    context = context_of(tmp_path, tokenizer, rows, skip_bad=True)
    rl.stage.run(context)
    outputs = context.outputs
    assert outputs["held_out_before"] == [0.0] * 3 and outputs["held_out_after"] == [1.0] * 3
    found = outputs["differences"][0]
    assert [found[key]["value"] for key in ("before", "after", "difference")] == [0.0, 1.0, 1.0]
    assert outputs["rows"]["prompts"]["kept"] == 2
    left_out = {"unreadable": 1, "prompt": 1, "id": 1}
    assert outputs["rows"]["prompts"]["left_out"] == left_out
    assert outputs["rows"]["held_out"] == {"rows": 3, "kept": 3}
    (warning,) = outputs["warnings"]
    assert warning.startswith("prompts: 3 of 5 rows left out (skip_bad; ")
    assert engine.closed and (context.stage_dir / "model" / "config.json").is_file()


def test_a_prompt_without_room_ends_the_run_before_anything_is_sampled(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, engine: ScriptedEngine
) -> None:
    text = "word " * 60
    context = context_of(tmp_path, tokenizer, [row("a"), row("long", text)])
    messages = [{"role": "user", "content": f"long: {text}"}]
    size = len(prompt_ids(messages, None, False, tokenizer=tokenizer))
    with pytest.raises(
        UserError,
        match=rf"row 'long' \(.*prompts\.jsonl, line 2\): its prompt has {size} tokens, .* 8 .* 64",
    ):
        rl.stage.run(context)
    assert engine.num_prompts == 0


def test_the_engine_is_given_what_4_bits_stand_for_once(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files of it, before the first sync and behind the measure of the model that came in."""
    pytest.importorskip("bitsandbytes")
    given = list[tuple[Path, dict[str, torch.Tensor]]]()

    def taken(path: str, *, version: int) -> None:
        assert context.outputs["held_out_before"] == [0.0] * 3 and version == engine.version == 0
        given.append((Path(path), load_file(Path(path) / "model.safetensors")))

    monkeypatch.setattr(engine, "load_checkpoint", taken)
    how = {"rank": 2, "base": "nf4"}
    context = context_of(tmp_path, tokenizer, [row("a"), row("b")], lora=how)
    rl.stage.run(context)
    ((path, tensors),) = given
    lora = LoraConfig(rank=2, base="nf4")
    base = load_base(tmp_path / "sft" / "model", lora, "cpu").state_dict()
    assert {canonical(name) for name in tensors} == base.keys()
    assert all(torch.equal(tensor, base[canonical(name)]) for name, tensor in tensors.items())
    assert not path.exists() and (context.stage_dir / "model" / "config.json").is_file()
