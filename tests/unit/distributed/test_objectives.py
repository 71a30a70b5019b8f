"""Distillation and SFT on ranks equal one process: KL's gradients, and TRL's training step by step."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from model.hybrid import load_model
from model.packed import Rows
from model.sharding.core import Core
from model.sharding.files import read_sharded
from model.tokenizer import train_tokenizer
from pretrain.compress.distill import Distillation
from pretrain.compress.held_out import compare
from pretrain.optimizer import adamw
from sft.config import SftConfig
from sft.sharded import SftLoop
from sft.trainer import RowCollator, StrictSFTTrainer, trl_config
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh
from workbench.distributed.order import RowOrder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("teacher"), hidden_size=40, pattern="M-M*")


def distilled(folder: Path, teacher: Path, where: DistributedConfig | None) -> Any:
    """A step's KL, gradients and metrics, and the held-out figures."""
    mesh = make_mesh(where) if where else None
    models = [read_sharded(p, mesh) if mesh else load_model(p) for p in (folder, teacher)]
    core = Core(models[0], adamw(models[0].named_parameters(), lr=1e-3), mesh=mesh)
    goal, batch = Distillation(models[1]), tiny.rows(0)
    held_out = compare(*models, [tiny.rows(1, count=1), tiny.rows(2, count=1)])
    mine = Rows(*map(core.share, batch))
    parts = [Rows(*(t[i : i + 1] for t in mine)) for i in range(len(mine[0]))]
    count = batch.num_valid
    loss = core.backward([lambda p=p: goal.loss_sum(core.model, p, "fp32") / count for p in parts])
    return loss, tiny.gradients(core), goal.take_metrics(count), held_out


@pytest.mark.parametrize("where", [tiny.layout(2), tiny.layout(2, context=2)])
def test_distillation_equals_one_process(
    folder: Path, teacher: Path, where: DistributedConfig
) -> None:
    loss, gradients, metrics, held_out = distilled(folder, teacher, None)
    for found in on_ranks(2, distilled, folder, teacher, where):
        assert found[0] == pytest.approx(loss, rel=1e-6)
        assert tiny.apart(found[1], gradients) < 1e-6
        assert found[2] == pytest.approx(metrics, rel=1e-6)
        assert found[3] == {name: pytest.approx(v, rel=1e-6) for name, v in held_out.items()}


def samples() -> list[dict[str, list[int]]]:
    """Eleven rows of several samples and unequal lengths; prompts carry no loss."""
    made = []
    for number in range(11):
        rows = tiny.rows(number, count=1, tokens=20 + 3 * number)
        labels = rows.labels[0].clone()
        labels[: 4 + number] = -100
        made.append(
            {
                "input_ids": rows.input_ids[0].tolist(),
                "labels": labels.tolist(),
                "seq_idx": rows.seq_idx[0].tolist(),
            }
        )
    return made


def sft(where: DistributedConfig | None = None) -> SftConfig:
    fields: dict[str, Any] = {
        "rows_per_step": 4, "microbatch_rows": 1, "precision": "fp32", "threads": 1, "epochs": 2.0,
        "lr": 1e-3, "lr_scheduler": "cosine", "warmup_share": 0.3, "weight_decay": 0.1,
        "row_tokens": 64, "distributed": where or DistributedConfig(),
    }  # fmt: skip
    return SftConfig.model_construct(
        **{n: f.default for n, f in SftConfig.model_fields.items()} | {"trl": {}} | fields
    )


class Logged(TrainerCallback):
    """Loss, norm and rate of every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.steps.append((logs["loss"], logs["grad_norm"], logs["learning_rate"]))


def loop(folder: Path, where: DistributedConfig | None) -> Any:
    mesh = make_mesh(where) if where else None
    model = read_sharded(folder, mesh) if mesh else load_model(folder)
    training = SftLoop(model.train(), samples(), sft(where), 7, mesh)
    found = [training.train_step() for _ in range(training.order.num_steps)]
    steps = [(f["loss"], f["grad_norm"], f["lr"]) for f in found]
    return steps, tiny.weights(training.core), training.tokens


def test_sft_on_ranks_is_trls_training(folder: Path, tmp_path: Path) -> None:
    """Two epochs of eleven rows, four a step: loss, norm and rate of six steps, and the weights.

    TRL rounds what it logs: losses to 4 digits behind the point, the rest to as many of their own.
    """
    from datasets import Dataset

    model, logged = load_model(folder), Logged()
    trainer = StrictSFTTrainer(
        model=model, args=trl_config(sft(), tmp_path, 7), data_collator=RowCollator(0),
        train_dataset=Dataset.from_list(samples()), processing_class=train_tokenizer(["a line of text\n"] * 3, 300, tmp_path / "words"),
        callbacks=[logged],
    )  # fmt: skip
    trainer.train()
    assert len(logged.steps) == 6
    wanted = {name: p.detach() for name, p in model.named_parameters()}
    tokens = 2 * sum(len(row["input_ids"]) for row in samples())
    ways = [loop(folder, None)]
    for where in (tiny.layout(2), tiny.layout(2, context=2)):
        ways += on_ranks(2, loop, folder, where)
    for steps, weights, seen in ways:
        for ours, theirs in zip(steps, logged.steps, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-4)
        assert tiny.apart(weights, wanted) < 5e-6
        assert seen == tokens


def test_each_epoch_has_each_row_once_and_no_step_spans_two() -> None:
    order = RowOrder(11, 4, 2.5, seed=3)
    assert (order.epoch_steps, order.num_steps) == (3, 8)
    steps = [order.step(number) for number in range(8)]
    assert [len(rows) for rows in steps] == [4, 4, 3, 4, 4, 3, 4, 4]
    assert sorted(chain(*steps[:3])) == sorted(chain(*steps[3:6])) == list(range(11))
    assert steps[0] != steps[3]
    generator = torch.Generator().manual_seed(4)
    assert list(chain(*steps[3:6])) == torch.randperm(11, generator=generator).tolist()
