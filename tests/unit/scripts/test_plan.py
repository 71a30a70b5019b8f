"""scripts/plan.py on every recipe: aligned, exact where it can be, and free of torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import plan
from tests import tiny
from workbench.command import command
from workbench.graph.dag import config_digest
from workbench.recipe import load
from workbench.rundir import Manifest, RunDir

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def _plan(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/plan.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_plan(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where the other recipes' imports and files are known."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["plan.py", "--recipe", str(path)])
    assert command(plan.run, plan.arguments, plan.__doc__) == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(table) > 1
    # One row a stage at least, and every row names its stage first.
    assert all(line.split()[0] for line in table)


def test_the_12b_in_json() -> None:
    """[paper] 12.31B parameters, 28/28/6 layers, 20T tokens in steps of 736 x 8,192, rounded up.
    [derived] fsdp over 184 workers: 8 P / 184 bytes of optimizer, 4 P / 184 of fp32 weights."""
    done = _plan(
        "--recipe", "recipes/nano2-12b.yaml", "--json", "--hardware", "h200", "--mfu", "0.5"
    )
    plan = json.loads(done.stdout)
    assert plan["model"]["parameters"] == sum(plan["model"]["by_kind"].values()) == 12_310_001_152
    assert plan["model"]["layers"] == {"M": 28, "-": 28, "*": 6}
    (pretrain,) = plan["stages"]["pretrain"]["loads"]
    step = 736 * 8192
    assert pretrain["tokens"] == -(-20 * 10**12 // step) * step
    assert pretrain["memory"]["optimizer"] == 8 * 12_310_001_152 // 184
    assert pretrain["memory"]["weights"] == 4 * 12_310_001_152 // 184
    # 128 of 136 products are in FP8, assumed 1.4 times as fast; scan, scores, ends and output layer are not.
    share = pretrain["fp8_share"]
    assert pretrain["precision"] == "fp8" and pretrain["runs"] and 0.8 < share < 0.9
    in_bf16 = pretrain["flops"] / (989e12 * 0.5 * 184)
    assert pretrain["seconds"] == pytest.approx(in_bf16 * (1 - share + share / 1.4))
    for stage in ("pretrain", "long-context", "sft1", "sft2", "sft3"):
        assert plan["stages"][stage]["loads"][0]["fits"] is True
    assert plan["stages"]["grpo"]["loads"][1]["fits"] is True
    # What cannot run as it stands must say so.
    whole = (
        "--set",
        "stages.grpo.distributed.strategy=none",
        "--set",
        "stages.grpo.distributed.workers=1",
    )
    done = _plan("--recipe", "recipes/nano2-12b.yaml", "--json", *whole)
    assert json.loads(done.stdout)["stages"]["grpo"]["loads"][1]["fits"] is False


def test_hardware_without_fp8_is_marked() -> None:
    lines = _plan("--recipe", "recipes/nano2-12b.yaml", "--hardware", "a100").stdout.splitlines()
    row = next(line for line in lines if line.startswith("pretrain"))
    assert "fp8 (!)" in row
    assert any("a100 has no FP8 in blocks of 128" in line for line in lines)


def test_tokens_are_bounded_closely_and_then_known(tmp_path: Path) -> None:
    """[derived] a sum of the miniature has fewer bytes than 200, and a row 512 tokens."""
    recipe = tiny.write_recipe(tmp_path, {"sft": tiny.sft_stage(needs=[])})
    row = next(x for x in _plan("--recipe", str(recipe)).stdout.splitlines() if x.startswith("sft"))
    tokens, time = next(w for w in row.split() if w.startswith("<=")), row.split()[-2]
    assert 24 * 20 < int(tokens[2:].replace(",", "")) < 24 * 200
    assert time.startswith("<=")
    read = load(recipe)
    run = RunDir(tmp_path / "runs" / "tiny")
    data = {"tokens": {"math": 960}, "samples": {"math": 24}}
    run.write_manifest(
        Manifest("sft", "sft", "done", {}, config_digest(read, "sft"), 0, outputs={"data": data})
    )
    counted = json.loads(_plan("--recipe", str(recipe), "--json").stdout)["stages"]["sft"]["loads"]
    assert [(x["tokens"], x["document_tokens"], x["bound"]) for x in counted] == [(960, 40, False)]
    changed = _plan("--recipe", str(recipe), "--set", "stages.sft.lr=1", "--json").stdout
    assert json.loads(changed)["stages"]["sft"]["loads"][0]["bound"] is True


def test_bad_hardware_and_shares_are_one_line() -> None:
    for words, expected in (
        (("--hardware", "h10"), "unknown hardware 'h10'; did you mean 'h100'?"),
        (("--mfu", "40"), "--mfu 40.0: it is a share of the peak"),
        (("--set", "stages.sft1.distributed.workers=24"), "must be a multiple of microbatch_rows"),
        (("--set", "cluster.backend=local"), "needs Ray, and cluster.backend is 'local'"),
    ):
        done = _plan("--recipe", "recipes/nano2-12b.yaml", *words)
        assert done.returncode == 2
        assert expected in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['plan.py', '--recipe', 'recipes/nano2-9b.yaml']\n"
        "try: runpy.run_path('scripts/plan.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "bad = {'torch', 'transformers', 'ray', 'vllm', 'trl', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _converted(folder: Path, config: dict[str, object], **stage: object) -> Path:
    """A recipe that trains a checkpoint of this configuration, with 16 prompts on an engine."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    origin = {"type": "checkpoint", "path": str(folder / "model")}
    stages = {
        "base": {"kind": "convert", "source": origin},
        "sft": tiny.sft_stage(needs=["base"], **stage),
    }
    return tiny.write_recipe(folder, stages)


SMOLLM2_1_7B = {
    "model_type": "llama", "num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False,
}  # fmt: skip


def test_the_model_that_the_recipe_trains_is_priced_and_cards_named(tmp_path: Path) -> None:
    """[derived] 24 (4 x 2048^2 + 3 x 2048 x 8192 + 2 x 2048) + 49152 x 2048 + 2048 = 1,711,376,384, the
    published 1.71B. 16 bytes each in fp32 are 25.5 GiB; 4 rows x 512 tokens x 24 layers keep 221,312 bytes
    each, 10.1 GiB; the loss has 0.4 GiB: 36.0 GiB are over 40 GB x 0.9 and under 80 x 0.9."""
    done = _plan("--recipe", str(_converted(tmp_path, SMOLLM2_1_7B)), "--json")
    plan = json.loads(done.stdout)
    assert plan["model"]["parameters"] == 1_711_376_384
    memory = plan["stages"]["sft"]["loads"][0]["memory"]
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * 1_711_376_384
    words = plan["stages"]["sft"]["cards"]
    assert words.startswith("24 GB: precision: bf16, activations: checkpoint, lora: {rank: 16,")
    assert words.endswith("40 GB: precision: bf16, activations: checkpoint; fits 80 GB (36.0 GiB)")


def test_a_family_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    done = _plan("--recipe", str(_converted(tmp_path, {"model_type": "qwen3_next"})))
    assert done.returncode == 0
    assert done.stdout.startswith("tiny: the model's size is not known\n")
    assert ["sft", "no", "estimate"] in [line.split() for line in done.stdout.splitlines()]
    assert "sft: what a model of the family 'qwen3_next' costs is not known" in done.stdout


def test_a_recipe_of_data_alone_has_no_table_of_cards() -> None:
    shown = _plan("--recipe", "recipes/nano2-data.yaml").stdout
    assert "code-files" in shown and "core-hours" in shown
    assert "GiB in all" not in shown and "GiB a process" not in shown
