"""Whole stages in worker processes: what a stage leaves, and one that is killed and goes on elsewhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from model.hybrid import load_model
from pretrain.train import Trainer
from rl.ranks.loop import PairLoop
from tests import tiny
from tests.ranks import on_ranks
from tests.stage_worker import worker
from workbench import registry
from workbench.distributed import launch
from workbench.distributed.config import DistributedConfig
from workbench.errors import StopRequested
from workbench.fork import begin, kept_states
from workbench.recipe import build
from workbench.rundir import Manifest, RunDir, read_json, write_json
from workbench.stage import StageContext
from workbench.tracking import read_metrics

MODEL = {
    **tiny.MODEL,
    "overrides": {**tiny.MODEL["overrides"], "n_groups": 2, "num_key_value_heads": 2},  # type: ignore[dict-item]
}
_SFT = {"microbatch_rows": 1, "concatenate": True, "lr": 1e-3, "epochs": 2.0}
TWO = {"workers": 2, "strategy": "fsdp"}


def forked(context: StageContext, config: DistributedConfig, work: str) -> None:
    """`run_workers` with forked processes in the place of Ray Train's: the same job in each."""
    on_ranks(config.workers, _worker, job_of(context, work))
    take_result(context)


def job_of(context: StageContext, work: str) -> dict[str, Any]:
    (context.stage_dir / "workers").mkdir(parents=True, exist_ok=True)
    write_json(context.run.root / "recipe.json", {})  # by which workers know that they see the run
    return launch.job_of(context, work, on_gpu=False)


def take_result(context: StageContext) -> None:
    result = read_json(context.stage_dir / "workers" / "result.json")
    context.outputs |= result["outputs"]
    if result["status"] == "stopped":
        raise StopRequested(result["message"])
    assert result["status"] == "done", result


def spawned(context: StageContext, config: DistributedConfig, work: str) -> None:
    """The same with processes of their own, as torchrun starts them."""
    path = context.stage_dir / "job.json"
    write_json(path, job_of(context, work))
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(config.workers)]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.stage_worker", str(path)],
        cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    take_result(context)


def _worker(job: dict[str, Any]) -> None:
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {name: str(size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # the group is there already
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process we are a copy of
    worker(job)


@pytest.fixture(autouse=True)
def _workers_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (
        "pretrain.stage", "sft.stage", "pretrain.compress.distill", "rl.preference.stage",
        "rl.reward_model.stage",
    ):  # fmt: skip
        monkeypatch.setattr(registry.resolve(f"{stage}:run").__module__ + ".run_workers", forked)


def run(folder: Path, stages: dict[str, Any], name: str, into: str = "tiny") -> StageContext:
    """One stage of a recipe in a run directory that has the stages before it."""
    recipe = build(
        {"name": "tiny", "runs_dir": str(folder), "model": MODEL, "stages": stages, "seed": 17}
    )
    config = recipe.stages[name]
    place = RunDir(folder / into)
    place.stage(name).mkdir(parents=True, exist_ok=True)
    inputs = {need: place.stage(need) for need in config.needs}
    context = StageContext(name, config, recipe, place, inputs)
    begin(recipe, place, name)
    try:
        registry.resolve(registry.kind(config.kind).run)(context)
    finally:
        context.close()
    return context


def losses(context: StageContext) -> list[float]:
    lines = (context.stage_dir / "metrics.jsonl").read_text().splitlines()
    found = [found for line in lines if "loss" in (found := json.loads(line))]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return [line["loss"] for line in found]


def weights(context: StageContext) -> dict[str, torch.Tensor]:
    return load_model(context.stage_dir / "model").state_dict()


def stages(spread: dict[str, Any], **sft: Any) -> dict[str, Any]:
    return {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(microbatch_rows=1, distributed=spread),
        "sft": tiny.sft_stage(**{**_SFT, **sft}),
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageContext]:
    folder = tmp_path_factory.mktemp("one")
    run(folder, stages({}), "tokenizer")
    return folder, run(folder, stages({}), "pretrain")


def near(ours: StageContext, theirs: StageContext, tolerance: float) -> None:
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-5)
    mine, other = weights(ours), weights(theirs)
    assert mine.keys() == other.keys()
    for name, tensor in other.items():
        assert float((mine[name] - tensor).norm() / tensor.norm()) < tolerance, name


def test_a_killed_stage_goes_on_in_another_layout(
    one: tuple[Path, StageContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a rank in its fifth step; two that share rows go on from the third."""
    folder, wanted = one
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tokenizer").symlink_to(folder / "tiny" / "tokenizer")
    step = Trainer.train_step

    def dies(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == 4 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", dies)
    with pytest.raises(Exception, match="SIGKILL"):
        run(tmp_path, stages(TWO), "pretrain")
    monkeypatch.setattr(Trainer, "train_step", step)
    again = run(tmp_path, stages({**TWO, "context": 2}), "pretrain")
    near(again, wanted, 1e-4)
    assert again.outputs["data"] == wanted.outputs["data"]
    assert not (again.stage_dir / "initial").exists()


def test_sft_in_workers_is_the_stage_in_one_process(one: tuple[Path, StageContext]) -> None:
    folder, _ = one
    alone = run(folder, stages({}), "sft")
    kept = alone.stage_dir.rename(folder / "tiny" / "alone")
    shared = run(folder, stages({}, distributed={**TWO, "context": 2}), "sft")
    # TRL leaves a model that no longer caches, which nobody asked it for.
    ours, theirs = (read_json(f / "model" / "config.json") for f in (shared.stage_dir, kept))
    assert ours | {"use_cache": False} == theirs
    mine, other = load_model(shared.stage_dir / "model"), load_model(kept / "model")
    for name, tensor in other.state_dict().items():
        assert float((mine.state_dict()[name] - tensor).norm() / tensor.norm()) < 1e-5, name


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp",
        pytest.param("zero2", marks=pytest.mark.stress),
        pytest.param("zero3", marks=pytest.mark.stress),
        pytest.param("zero2 with adapters", marks=pytest.mark.stress),
    ],
)
def test_sft_in_trls_workers_stops_and_goes_on(
    one: tuple[Path, StageContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """TRL under DDP and DeepSpeed: stopped after the second of four steps, continued from the workers'
    own checkpoint, and the weights of one process that was never stopped."""
    folder, _ = one
    (tmp_path / "tiny").mkdir()
    for stage in ("tokenizer", "pretrain"):
        (tmp_path / "tiny" / stage).symlink_to(folder / "tiny" / stage)
    # As many rows as whole steps need: rows that fill up a step would change TRL's order of all rows.
    world = {"math": {"source": {"type": "world", "domain": "math"}, "samples": 16}}
    rows = {"parts": world, "concatenate": False, "epochs": 1.0, "checkpoint_every_steps": 4}
    strategy, _, adapters = strategy.partition(" with ")
    if adapters:
        rows["lora"] = {"rank": 2}
    alone = run(tmp_path, stages({}, **rows), "sft").stage_dir.rename(tmp_path / "alone")
    recipe = stages({}, **rows, distributed={"workers": 2, "strategy": strategy})
    if strategy != "ddp":  # DeepSpeed's own threads do not live through a fork
        monkeypatch.setattr("sft.stage.run_workers", spawned)
    with monkeypatch.context() as patch:
        patch.setenv("ANNEAL_TEST_STOP", "2")
        with pytest.raises(StopRequested):
            run(tmp_path, recipe, "sft")
    kept = (tmp_path / "tiny" / "sft" / "checkpoints").glob("checkpoint-*")
    assert [path.name for path in kept] == ["checkpoint-2"]
    if adapters:
        checkpoint = tmp_path / "tiny" / "sft" / "checkpoints" / "checkpoint-2"
        assert frozen_in(checkpoint) == set()
    shared = run(tmp_path, recipe, "sft")
    assert len(losses(shared)) == 4
    mine, other = weights(shared), load_model(alone / "model").state_dict()
    for name, tensor in other.items():
        assert float((mine[name] - tensor).norm() / tensor.norm()) < 1e-5, name


def frozen_in(checkpoint: Path) -> set[str]:
    """Weights in DeepSpeed's files that no adapter has."""
    found: set[str] = set()
    for path in checkpoint.rglob("*model_states.pt"):
        state = torch.load(path, weights_only=False, map_location="cpu")
        named = {name for name, tensor in state["module"].items() if tensor.numel()}
        found |= named | (state.get("frozen_param_fragments") or {}).keys()
    return {name for name in found if "lora_" not in name}


PAIRS = [
    {"prompt": f"{n} + 2 = ?", "chosen": f"It is {n + 2}", "rejected": "No idea" if n % 2 else "?"}
    for n in range(19)
]
MARKS = [
    {"prompt": p["prompt"], "completion": p["chosen" if n % 3 else "rejected"], "label": n % 3 > 0}
    for n, p in enumerate(PAIRS)
]


def preferences(folder: Path, spread: dict[str, Any]) -> dict[str, Any]:
    """DPO with adapters, KTO and a reward model on given rows, three steps each."""

    def rows(name: str, what: list[Any], form: str) -> dict[str, Any]:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in what))
        return {"type": "jsonl", "path": str(path), "form": form}

    shared: dict[str, Any] = {
        "needs": ["pretrain"], "num_held_out": 4, "lr": 1e-3, "warmup_share": 0.0, "precision": "fp32",
        "pairs_per_step": 4, "microbatch_pairs": 2, "checkpoint_every_steps": 1, "row_tokens": 256,
        "distributed": spread, "validation": {"every": 1, "keep": "best", "num_rows": 4},
    }  # fmt: skip
    pairs, held = rows("pairs", PAIRS[:11], "pairs"), rows("held", PAIRS[11:], "pairs")
    marks = rows("marks", MARKS[:11], "labelled")
    other = rows("other", MARKS[11:], "labelled")
    given = {"source": pairs, "held_out": held, "samples": 11}
    return stages({}) | {
        "dpo": {"kind": "offline_dpo", **shared, **given, "lora": {"rank": 2}},
        "kto": {"kind": "kto", **shared, "source": marks, "held_out": other, "samples": 11},
        "reward": {
            "kind": "reward_model", **shared, "prompts": pairs, "held_out": held, "num_prompts": 11,
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", ["dpo", "kto", "reward"])
def test_preferences_in_workers_are_the_stage_in_one_process(
    one: tuple[Path, StageContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A rank is killed in the second step; two that share rows go on from the first."""
    folder, _ = one
    alone = run(folder, preferences(tmp_path, {}), name)
    kept = alone.stage_dir.rename(tmp_path / "alone")
    step = PairLoop.train_step

    def dies(self: PairLoop) -> dict[str, float]:
        if self.step == 1 and torch.distributed.get_rank() == 1:
            # What the first step saves is written while the second one computes.
            tiny.wait_until(lambda: any(folder.rglob(f"{name}/checkpoints/step-*")), "the state")
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    monkeypatch.setattr(PairLoop, "train_step", dies)
    with pytest.raises(Exception, match="SIGKILL"):
        run(folder, preferences(tmp_path, TWO), name)
    monkeypatch.setattr(PairLoop, "train_step", step)
    shared = run(folder, preferences(tmp_path, {**TWO, "context": 2}), name)
    assert len(losses(shared)) == 3
    mine, other = load_model(shared.stage_dir / "model"), load_model(kept / "model")
    for key, tensor in other.state_dict().items():
        assert float((mine.state_dict()[key] - tensor).norm() / tensor.norm()) < 2e-4, key
    ours, theirs = (c.outputs["differences"] for c in (shared, alone))
    assert [d["after"]["value"] for d in ours] == [d["after"]["value"] for d in theirs]
    ours, theirs = (c.outputs["validation"] for c in (shared, alone))
    assert [line["step"] for line in ours["history"]] == [0, 1, 2, 3]
    assert ours["best_step"] == theirs["best_step"]
    for line, other_line in zip(ours["history"], theirs["history"], strict=True):
        assert line["loss"]["value"] == pytest.approx(other_line["loss"]["value"], abs=1e-5)
    if name == "dpo":
        adapters = (f / "adapter" / "adapter_model.safetensors" for f in (shared.stage_dir, kept))
        a, b = (load_file(path) for path in adapters)
        assert a.keys() == b.keys()
        assert all(float((a[k] - b[k]).norm() / b[k].norm()) < 2e-2 for k in b)
    if name == "reward":
        heads = (f / "model" / "reward_head.safetensors" for f in (shared.stage_dir, kept))
        a, b = (load_file(path)["weight"] for path in heads)
        assert float((a - b).norm() / b.norm()) < 1e-5


def test_a_fork_of_preferences_in_workers_goes_on_from_exactly_there(
    one: tuple[Path, StageContext], tmp_path: Path
) -> None:
    """Optimizer, step and order come with the weights; another rate holds from there on; all is kept."""
    for name in ("whole", "same", "faster"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pretrain").symlink_to(one[0] / "tiny" / "pretrain")
    kept = preferences(tmp_path, TWO)
    kept["dpo"] |= {"keep_checkpoints": 9, "validation": None}
    whole = run(tmp_path, kept, "dpo", "whole")
    assert list(kept_states(whole.stage_dir)) == [1, 2, 3]
    write_json(tmp_path / "whole" / "recipe.json", {})
    whole.run.write_manifest(Manifest("dpo", "offline_dpo", "done", {}, "digest", 0))

    forked = {**kept, "dpo": kept["dpo"] | {"fork": "whole/dpo@1", "keep_checkpoints": 0}}
    same = run(tmp_path, forked, "dpo", "same")
    ends = weights(whole)
    assert all(torch.equal(tensor, ends[name]) for name, tensor in weights(same).items())
    assert steps_of(same) == [2, 3]

    spread = {"distributed": {**TWO, "context": 2}, "lr": 5e-3}
    faster = run(tmp_path, {**forked, "dpo": forked["dpo"] | spread}, "dpo", "faster")
    first, usual = (
        read_metrics(c.stage_dir / "metrics.jsonl")[n] for c, n in ((faster, 0), (whole, 1))
    )
    assert first["loss"] == pytest.approx(usual["loss"], rel=1e-5)
    assert first["lr"] == pytest.approx(5 * usual["lr"])


def steps_of(context: StageContext) -> list[int]:
    return [line["step"] for line in read_metrics(context.stage_dir / "metrics.jsonl")]
