"""Every layout computes what one process does: loss, gradients, weights after some steps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.packed import Rows, token_loss_sum
from model.sharding.core import Core
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from workbench.distributed.config import DistributedConfig


def backward(core: Core, step: int, microbatch: int) -> float:
    """One step's gradients; returns the loss a token."""
    batch = tiny.rows(step)
    mine = Rows(*map(core.share, batch))
    parts = [
        Rows(*(t[i : i + microbatch] for t in mine)) for i in range(0, len(mine[0]), microbatch)
    ]
    return core.backward(
        [lambda p=p: token_loss_sum(core.model, p, "fp32") / batch.num_valid for p in parts]
    )


def trained(core: Core, steps: int) -> dict[str, torch.Tensor]:
    for step in range(steps):
        backward(core, step, 1)
        core.clip(1.0)
        core.update()
    return tiny.weights(core)


def worker(folder: Path, where: DistributedConfig, activations: str) -> Any:
    core = tiny.sharded(folder, where, activations=activations)
    loss = backward(core, 0, 1)
    found = tiny.gradients(core)
    core.model.zero_grad(set_to_none=True)
    return loss, found, trained(core, 3)


LAYOUTS = [
    (tiny.layout(2), "keep"),
    (tiny.layout(2, context=2), "checkpoint"),
    *(
        pytest.param(tiny.layout(4, **how), "offload", marks=pytest.mark.stress)
        for how in ({}, {"context": 4}, {"context": 2}, {"replicate": 2})
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Any:
    core = tiny.alone(folder)
    loss = backward(core, 0, 4)
    found = tiny.gradients(core)
    return loss, found, trained(tiny.alone(folder), 3)


@pytest.mark.parametrize(("where", "activations"), LAYOUTS)
def test_a_layout_equals_one_process(
    folder: Path, one: Any, where: DistributedConfig, activations: str
) -> None:
    found = on_ranks(where.workers, worker, folder, where, activations)
    for loss, gradients, weights in found:
        assert loss == pytest.approx(one[0], rel=1e-6)
        assert tiny.apart(gradients, one[1]) < 1e-6
        assert tiny.apart(weights, one[2]) < 5e-6
