"""The recipes for one card, run to their end as tiny twins: stages, adapters, merged models, lift and curves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from model.lora import load_base
from model.lora_config import LoraConfig
from model.tokenizer import train_tokenizer
from model.weights import canonical
from tests import tiny
from tests.recipe_twins import TWINS, Twin, changed, make, overrides
from workbench.recipe import load

pytestmark = pytest.mark.integration
ALPHA_OVER_RANK = 2.0  # 32 / 16 in both recipes


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_differs_from_its_recipe_in_what_is_listed(name: str, tmp_path: Path) -> None:
    assert changed(TWINS[name], tmp_path) == set(TWINS[name].changes)


@pytest.mark.parametrize("name", TWINS)
def test_a_new_key_and_a_new_stage_reach_the_twin(name: str, tmp_path: Path) -> None:
    twin, path = TWINS[name], tmp_path / "recipe.yaml"
    body = yaml.safe_load(twin.path.read_text(encoding="utf-8"))
    body["stages"]["sft"]["warmup_share"] = 0.25
    body["stages"]["again"] = body["stages"]["sft"] | {"needs": ["grpo"]}
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    found: Any = load(path, overrides(twin, tmp_path)).stages
    assert found["sft"].warmup_share == 0.25
    assert found["again"].lora == found["sft"].lora and found["again"].needs == ["grpo"]
    assert changed(twin, tmp_path, path) == set(twin.changes)


def run(twin: Twin, folder: Path, *more: str) -> Path:
    """All stages by the command line; the run's folder. more: further overrides."""
    words = [word for pair in (*overrides(twin, folder), *more) for word in ("--set", pair)]
    command = [sys.executable, "scripts/run_stage.py", "all", "--recipe", str(twin.path), *words]
    done = subprocess.run(
        command, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True,
        timeout=tiny.PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / load(twin.path).name


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {canonical(n): t for n, t in load_file(folder / "model/model.safetensors").items()}


def merged_by_hand(run: Path, stage: str, parent: str, base: str) -> bool:
    """The stage's model is its parent's (in 4 bits: what these stand for) and alpha / rank x B A, in bf16
    [derived]. Whether B is not 0."""
    before, after = tensors(run / parent), tensors(run / stage)
    if base == "nf4":
        held = load_base(run / parent / "model", LoraConfig(base="nf4"), "cpu").state_dict()
        assert any(not torch.equal(before[name], held[name]) for name in before)
        before = {name: held[name] for name in before}
    adapter = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in load_file(run / stage / "adapter/adapter_model.safetensors").items()
    }
    firsts = [name for name in adapter if name.endswith(".lora_A.weight")]
    assert len(firsts) * 2 == len(adapter) and firsts
    for first in firsts:
        owner = first.removesuffix(".lora_A.weight")
        b, a = adapter[f"{owner}.lora_B.weight"], adapter[first]
        whole = before[f"{owner}.weight"].float() + ALPHA_OVER_RANK * (b @ a)
        before[f"{owner}.weight"] = whole.bfloat16()
    assert after.keys() == before.keys()
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    assert all(torch.equal(after[name], before[name]) for name in after)
    return any(bool(t.any()) for name, t in adapter.items() if "lora_B" in name)


def lines(run: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / stage / "metrics.jsonl").read_text().splitlines()]


def trained(run: Path, base: str = "bfloat16") -> None:
    """SFT moved its adapters. GRPO had gradients, synced with its proofs, and was measured."""
    assert merged_by_hand(run, "sft", "base", base)
    merged_by_hand(run, "grpo", "sft", base)
    steps = [line for line in lines(run, "grpo") if line["step"]]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(0 < line["grad_norm"] < 100 and line["mismatch_kl"] < 1e-2 for line in steps)
    assert all(line["probe_error"] < 0.1 for line in steps)
    done = tiny.manifest(run, "grpo")["outputs"]
    assert len(done["held_out_before"]) == len(done["held_out_after"]) == 4
    lift = next(d for d in done["differences"] if d["difference"]["n"] == 4)
    low, high = lift["difference"]["ci95"]
    assert low <= lift["difference"]["value"] <= high
    assert (run / "report.html").is_file()


def test_the_twin_of_one_gpu(tmp_path: Path) -> None:
    twin = make("one-gpu", tmp_path, train_tokenizer(["a line"], 300, tmp_path / "words"))
    found = run(twin, tmp_path)
    trained(found)
    assert [line["step"] for line in lines(found, "sft")] == [1, 2]  # an epoch each
    history = tiny.manifest(found, "grpo")["outputs"]["validation"]["history"]
    assert [point["step"] for point in history] == [0, 1, 2]
    assert any((found / "grpo/checkpoints").iterdir())  # to fork from


def test_the_twin_of_one_gpu_on_a_base_in_4_bits(tmp_path: Path) -> None:
    """The engine samples from what the 4 bits stand for, and proves it at every sync."""
    pytest.importorskip("bitsandbytes")
    twin = make("one-gpu", tmp_path, train_tokenizer(["a line"], 300, tmp_path / "words"))
    bases = [f"stages.{stage}.lora.base=nf4" for stage in ("sft", "grpo")]
    trained(run(twin, tmp_path, *bases), "nf4")


def test_the_twin_of_the_9b(tmp_path: Path) -> None:
    words = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, tmp_path / "words")
    twin = make("nano2-9b-lora", tmp_path, words)
    found = run(twin, tmp_path)
    trained(found)
    cut = tiny.manifest(found, "sft")["outputs"]["data"]["truncated_traces"]
    assert (cut["wanted"], cut["cut"]) == (2, 2)  # 5% of 40
    curves = json.loads((found / "evals/budget_curves.json").read_text())
    assert {(c["benchmark"], c["model"]) for c in curves} == {
        ("small-arithmetic-held-out", name) for name in ("base", "grpo")
    }
    for curve in curves:
        points = [(point["budget"], point["questions"]) for point in curve["points"]]
        assert points == [(4, 3), (8, 3), (16, 3), (None, 3)]
