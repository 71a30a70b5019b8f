"""Whole stages in FP8: two processes that are killed and go on, SFT by TRL and by the core, distillation."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from model.fp8 import linear
from model.hybrid import load_model
from pretrain.train import Trainer
from tests import tiny
from tests.integration.test_distributed_stages import (  # noqa: F401 - the fixture is used by being here
    TWO,
    _workers_are_forked,
    losses,
    run,
    stages,
    weights,
)
from workbench.stage import StageContext

FP8: dict[str, Any] = {"precision": "fp8", "fp8": {"ends": 1, "others": "fp32"}}


def in_fp8(spread: dict[str, Any], **sft: Any) -> dict[str, Any]:
    """The stages of the layouts' tests, in FP8."""
    made = stages(spread, **sft)
    return {name: body | (FP8 if name != "tokenizer" else {}) for name, body in made.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageContext]:
    folder = tmp_path_factory.mktemp("fp8")
    run(folder, stages({}), "tokenizer")
    return folder, run(folder, in_fp8({}), "pretrain")


def test_a_killed_stage_goes_on_to_the_bit(
    base: tuple[Path, StageContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a rank in its fifth step, two shards before and after; one process is near."""
    folder, alone = base
    found = []
    step = Trainer.train_step

    def dies(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == 4 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch)

    for name in ("whole", "killed"):
        (tmp_path / name / "tiny").mkdir(parents=True)
        (tmp_path / name / "tiny" / "tokenizer").symlink_to(folder / "tiny" / "tokenizer")
        if name == "killed":
            with monkeypatch.context() as patch, pytest.raises(Exception, match="SIGKILL"):
                patch.setattr(Trainer, "train_step", dies)
                run(tmp_path / name, in_fp8(TWO), "pretrain")
        found.append(run(tmp_path / name, in_fp8(TWO), "pretrain"))
    whole, killed = found
    assert losses(whole) == losses(killed)
    theirs = weights(whole)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in weights(killed).items())
    assert losses(alone)[0] == pytest.approx(losses(whole)[0], rel=1e-6)
    assert losses(alone) == pytest.approx(losses(whole), rel=1e-3)


def test_sft_by_trl_and_by_the_core(
    base: tuple[Path, StageContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both compute in FP8, and end near each other."""
    folder, _ = base
    quantised: list[int] = []
    multiply = linear.multiply
    monkeypatch.setattr(linear, "multiply", lambda *a: (quantised.append(1), multiply(*a))[1])
    alone = run(folder, in_fp8({}), "sft")
    assert quantised
    kept = alone.stage_dir.rename(folder / "tiny" / "alone")
    shared = run(folder, in_fp8({}, distributed=TWO), "sft")
    mine = weights(shared)
    other = load_model(kept / "model").state_dict()
    for name, tensor in other.items():
        assert float((mine[name] - tensor).norm() / tensor.norm()) < 2e-2, name


def test_distillation_in_fp8(base: tuple[Path, StageContext]) -> None:
    """A student that is its teacher: what FP8 does to it is a KL, and the figures before are of FP8 too."""
    folder, _ = base
    body = tiny.pretrain_stage(
        kind="distill", needs=["pretrain", "twin"], teacher="twin", total_tokens=512, **FP8,
        held_out=tiny.BLEND, held_out_rows=2,
    )  # fmt: skip
    if not (folder / "tiny" / "twin").exists():
        (folder / "tiny" / "twin").symlink_to(folder / "tiny" / "pretrain")
    made = in_fp8({})
    whole = {**made, "twin": made["pretrain"], "distill": body}
    done = run(folder, whole, "distill")
    assert "kl" in str(done.outputs["distance"])
    assert all(torch.isfinite(torch.tensor(losses(done)))) and losses(done)[0] > 1e-7
