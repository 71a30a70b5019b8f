"""Several processes of one training, forked from the test: imports are paid once."""

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def on_ranks(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What work(*args) returns in each of `count` processes of one gloo group, by rank.

    Raises: AssertionError with the first failure's trace.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _one, (count, Path(folder), work, args), nprocs=count, start_method="fork"
        )
        found = [torch.load(Path(folder) / f"{rank}", weights_only=False) for rank in range(count)]
    failed = [error for error, _ in found if error]
    assert not failed, failed[0]
    return [value for _, value in found]


def _one(
    rank: int, count: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=60),
    )
    error, value = "", None
    try:
        value = work(*args)
    except BaseException:  # noqa: BLE001 - the test raises it
        error = traceback.format_exc()
    torch.save((error, value), folder / f"{rank}")
    if not error:
        dist.destroy_process_group()
