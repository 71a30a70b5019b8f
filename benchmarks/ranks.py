"""Training in two processes against one with two threads, what travels, and what a checkpoint stops.

    PYTHONPATH=. python benchmarks/ranks.py

Interleaved rounds of one training step of a hybrid: in one process with two threads (microbatches side by
side), on two shards, and on two processes that share each row. Printed are ratios of medians. The bytes
that two processes exchange a step, counted at torch.distributed's calls, stand against the plan's formula
(model/communication.py), whose other half a process has itself.
The stall is how long a step waits that begins to save, in steps.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

import torch
import torch.distributed as dist
from transformers import AutoConfig

from model.communication import communication
from model.hybrid import load_model
from model.packed import Rows, token_loss_sum
from model.sharding.core import Core
from pretrain.compress.target import shape_of
from pretrain.optimizer import adamw
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from workbench.distributed.state import ShardedCheckpoints
from workbench.load import TrainingLoad

SIZES = {"hidden_size": 128, "intermediate_size": 512, "pattern": "M-M-*-M-"}
ROUNDS, STEPS, TOKENS = 3, 4, 512


def steps(core: Core, count: int) -> list[float]:
    """Seconds of some steps of four rows."""
    out = []
    for number in range(count):
        begun = time.perf_counter()
        batch = tiny.rows(number, tokens=TOKENS)
        mine, n = Rows(*map(core.share, batch)), batch.num_valid
        parts = [Rows(*(t[i : i + 1] for t in mine)) for i in range(len(mine[0]))]
        core.backward([lambda p=p, n=n: token_loss_sum(core.model, p, "fp32") / n for p in parts])
        core.clip(1.0)
        core.update()
        out.append(time.perf_counter() - begun)
    return out


def alone(folder: Path) -> float:
    model = load_model(folder).train()
    core = Core(model, adamw(model.named_parameters(), lr=1e-3), threads=2)
    return statistics.median(steps(core, STEPS + 1)[1:])


def shared(folder: Path, context: int, target: Path) -> dict[str, float]:
    """Median seconds of a step, bytes that its process sends or gets, stall of a save."""
    core = tiny.sharded(folder, tiny.layout(2, context=context))
    steps(core, 1)
    moved = [0]
    with counted(moved):
        steps(core, 1)
    found = steps(core, STEPS)
    usual = statistics.median(found)
    saves = ShardedCheckpoints(target)
    begun = time.perf_counter()
    saves.save(1, {"model": core.model.state_dict(), "optimizer": core.optimizer.state_dict()})
    stall = time.perf_counter() - begun
    saves.finish()
    return {"step_s": usual, "bytes": moved[0], "stall_s": stall}


class counted:
    """Adds up the bytes of what collectives are given."""

    NAMES = ("all_gather_single", "reduce_scatter_single", "all_to_all_single", "all_reduce")

    def __init__(self, moved: list[int]) -> None:
        self.moved = moved

    def __enter__(self) -> None:
        self.kept = {name: getattr(dist, name) for name in self.NAMES}
        for name in self.NAMES:
            setattr(dist, name, self._around(self.kept[name]))

    def _around(self, call: Any) -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            self.moved[0] += max((t.numel() * t.element_size() for t in tensors), default=0)
            return call(*args, **kwargs)

        return inner

    def __exit__(self, *_: Any) -> None:
        for name, call in self.kept.items():
            setattr(dist, name, call)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = tiny.checkpoint(Path(name), **SIZES)
        s = shape_of(AutoConfig.from_pretrained(folder))
        one, two, split = [], [], []
        for number in range(ROUNDS):
            one.append(alone(folder))
            two.append(on_ranks(2, shared, folder, 1, Path(name) / f"a{number}")[0])
            split.append(on_ranks(2, shared, folder, 2, Path(name) / f"b{number}")[0])
    base = statistics.median(one)
    print(f"one process, two threads: {base:.3f} s a step of 4 rows of {TOKENS} tokens")
    for what, found in (("two shards", two), ("two that share rows", split)):
        step = statistics.median(f["step_s"] for f in found)
        stall = statistics.median(f["stall_s"] for f in found)
        context = 2 if what == "two that share rows" else 1
        load = TrainingLoad(
            1, TOKENS, workers=2, strategy="fsdp", context=context, step_tokens=4 * TOKENS
        )
        formula = 2 * sum(communication(s, load))
        print(
            f"{what}: {step / base:.2f} of that; {found[0]['bytes'] / 1e6:.1f} MB through collectives a "
            f"step, by the formula {formula / 1e6:.1f}; a save stalls {stall / step:.2f} steps"
        )


if __name__ == "__main__":
    main()
