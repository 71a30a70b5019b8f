"""Whole stages in worker processes: what a stage leaves, and one that is killed and goes on elsewhere."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from model.hybrid import load_model
from pretrain.train import Trainer
from tests import tiny
from tests.ranks import on_ranks
from workbench import registry
from workbench.distributed import launch
from workbench.distributed.config import DistributedConfig
from workbench.errors import StopRequested
from workbench.recipe import build
from workbench.rundir import RunDir, read_json
from workbench.stage import StageContext

MODEL = {
    **tiny.MODEL,
    "overrides": {**tiny.MODEL["overrides"], "n_groups": 2, "num_key_value_heads": 2},  # type: ignore[dict-item]
}
TWO = {"workers": 2, "strategy": "fsdp"}


def forked(context: StageContext, config: DistributedConfig, work: str) -> None:
    """`run_workers` with forked processes in the place of Ray Train's: the same job in each."""
    folder = context.stage_dir / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "recipe": context.recipe.resolved(), "root": str(context.run.root), "stage": context.name,
        "inputs": {name: str(path) for name, path in context.inputs.items()},
        "outputs": context.outputs, "work": work, "on_gpu": False,
    }  # fmt: skip
    on_ranks(config.workers, _worker, job)
    result = read_json(folder / "result.json")
    context.outputs |= result["outputs"]
    if result["status"] == "stopped":
        raise StopRequested(result["message"])
    assert result["status"] == "done", result


def _worker(job: dict[str, Any]) -> None:
    os.environ["RANK"] = str(torch.distributed.get_rank())
    launch._in_worker(job)


@pytest.fixture(autouse=True)
def _workers_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("pretrain.stage", "sft.stage", "pretrain.compress.distill"):
        monkeypatch.setattr(registry.resolve(f"{stage}:run").__module__ + ".run_workers", forked)


def run(folder: Path, stages: dict[str, Any], name: str) -> StageContext:
    """One stage of a recipe in a run directory that has the stages before it."""
    recipe = build(
        {"name": "tiny", "runs_dir": str(folder), "model": MODEL, "stages": stages, "seed": 17}
    )
    config = recipe.stages[name]
    place = RunDir(folder / "tiny")
    place.stage(name).mkdir(parents=True, exist_ok=True)
    inputs = {need: place.stage(need) for need in config.needs}
    context = StageContext(name, config, recipe, place, inputs)
    try:
        registry.resolve(registry.kind(config.kind).run)(context)
    finally:
        context.close()
    return context


def losses(context: StageContext) -> list[float]:
    lines = (context.stage_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return [line["loss"] for line in found]


def weights(context: StageContext) -> dict[str, torch.Tensor]:
    return load_model(context.stage_dir / "model").state_dict()


def stages(spread: dict[str, Any], **sft: Any) -> dict[str, Any]:
    return {
        "tokenizer": tiny.tokenizer_stage(),
        "pretrain": tiny.pretrain_stage(microbatch_rows=1, distributed=spread),
        "sft": tiny.sft_stage(microbatch_rows=1, concatenate=True, lr=1e-3, epochs=2.0, **sft),
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
