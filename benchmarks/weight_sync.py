"""What a weight sync costs: bytes sent, seconds, and the most memory of each side while it goes on.

    PYTHONPATH=. python benchmarks/weight_sync.py runs/smollm2/base/model           # all weights
    PYTHONPATH=. python benchmarks/weight_sync.py runs/smollm2/base/model --rank 16 # adapters

An engine actor in a Ray of its own, one thread each; the weights (or the adapters) move before each sync, and
every proof is made. The first sync is left out: Ray's store meets new memory.
"""

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
LONGEST = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("--rank", type=int, help="of adapters on every layer kind")
    parser.add_argument("--syncs", type=int, default=6)
    options = parser.parse_args()
    from workbench.cluster import connect, disconnect
    from workbench.recipe import ClusterSection

    connect(ClusterSection(num_cpus=2), namespace="weight-sync")
    try:
        measure(options)
    finally:
        disconnect()


def measure(options: argparse.Namespace) -> None:
    """Sync by sync, then the medians."""
    import torch

    from engine.config import EngineConfig
    from engine.remote import start_engine
    from model.hybrid import load_model
    from model.lora import add_adapters
    from model.lora_config import LoraConfig
    from rl.weight_sync import sync

    torch.set_num_threads(1)
    torch.manual_seed(1)
    engine: Any = start_engine(options.model, EngineConfig(max_model_len=LONGEST, kv_cache_mb=128))
    model: Any = load_model(options.model)
    if options.rank:
        add_adapters(model, LoraConfig(rank=options.rank, alpha=2 * options.rank))
    replica = engine._replicas[0]
    pids = (os.getpid(), _result(replica.started))
    took, sizes, watch = list[float](), set[int](), Watch(pids)
    for version in range(options.syncs + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=1e-5)
        with watch:
            begun = time.perf_counter()
            done = sync(model, engine, version=version, longest=LONGEST)
            took.append(time.perf_counter() - begun)
        sizes.add(done.sent_bytes)
    trainer, actor = watch.grown
    print(
        f"{options.model}: {', '.join(f'{size / 1e6:,.1f}' for size in sizes)} MB sent; seconds "
        f"{' '.join(f'{s:.2f}' for s in took[1:])}, median {statistics.median(took[1:]):.2f} (the first "
        f"{took[0]:.2f}); memory of its own on top, trainer {trainer:,.0f} MB, engine {actor:,.0f} MB"
    )


class Watch:
    """The most memory of their own (not of files or Ray's store) that processes take while it is entered, on top
    of what they had when it was made, in MB. Freed memory is often kept, so it is made before the first sync."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = self._most = [_own_mb(pid) for pid in pids]

    def __enter__(self) -> "Watch":
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grown(self) -> tuple[float, ...]:
        """Of each process."""
        return tuple(most - before for most, before in zip(self._most, self._before, strict=True))

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self._most = [
                max(*pair) for pair in zip(self._most, map(_own_mb, self._pids), strict=True)
            ]


def _result(call: Any) -> Any:
    import ray

    return ray.get(call)


def _own_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
