"""What takes minutes of ranks: kills at random moments, random layouts of documents, memory of a rank."""

import itertools
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.sharding import files
from model.sharding.check import check_shards
from pretrain.prefetch import SharedRows
from pretrain.rows import RowStream
from pretrain.train import Trainer, TrainingHooks
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from tests.unit.distributed.test_state import Counting, Kept, config
from workbench.distributed import group
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh
from workbench.distributed.state import ShardedCheckpoints, load_latest
from workbench.tracking import MetricsWriter

KILLS, STEPS = 28, 48


def trains(model: Path, folder: Path, where: DistributedConfig, until: int, killed: Any) -> Any:
    """Continue to step `until`, each step logged. killed: (rank, seconds), or None."""
    if killed and killed[0] == group.rank():
        timer = threading.Timer(killed[1], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    mesh = make_mesh(where)
    loaded = files.read_sharded(model, mesh)
    stream = RowStream(Counting(), 48) if group.is_first() else None
    rows = Kept(SharedRows(stream))
    planned = config(checkpoint_every_steps=1, total_tokens=STEPS * 4 * 48)
    trainer = Trainer(loaded, rows, planned, mesh=mesh)
    state = load_latest(folder, loaded, trainer.optimizer)
    if state is not None:
        trainer.load_state_dict(state)
    log = MetricsWriter(folder) if group.is_first() else None
    if log:
        log.truncate_after(trainer.step)
    hooks = TrainingHooks(
        log=lambda step, metrics, tokens: log.log(step, metrics, tokens=tokens) if log else None,
        progress=lambda step, tokens: None,
        should_stop=lambda: trainer.step >= until,
    )
    trainer.fit(hooks, ShardedCheckpoints(folder))
    return tiny.weights(trainer.core)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


def steps(folder: Path) -> list[int]:
    return [int(n) for n in re.findall(r'"step": (\d+)', (folder / "metrics.jsonl").read_text())]


def undisturbed(model: Path, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    begun = time.monotonic()
    weights = on_ranks(2, trains, model, folder, tiny.layout(2), STEPS, None)[0]
    return weights, time.monotonic() - begun


@pytest.mark.stress
@pytest.mark.parametrize("same", [True, False])
def test_killed_ranks_lose_no_step(
    model: Path, tmp_path: Path, same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 of a random rank at a random moment, loading, training or saving, KILLS times: to the bit in
    the same layout, within 1e-5 where two shards and two that share rows take turns; every step once."""
    wanted, whole_s = undisturbed(model, tmp_path / "whole")
    made, folder = random.Random(int(same)), tmp_path / "killed"
    died = 0
    while died < KILLS:
        where = tiny.layout(2, context=1 if same or died % 2 else 2)
        # Most of an attempt's time is its start; a kill that comes too late counts for nothing.
        moment = made.uniform(0.02, whole_s * 0.5)
        until = min(STEPS, (died + 1) * STEPS // KILLS)
        try:
            on_ranks(2, trains, model, folder, where, until, (made.randrange(2), moment))
        except Exception as error:  # noqa: BLE001 - of the peer that was left alone, or of multiprocessing
            assert "SIGKILL" in str(error) or "peer" in str(error) or "onnect" in str(error), error
            died += 1
    found = on_ranks(2, trains, model, folder, tiny.layout(2), STEPS, None)[0]
    with capsys.disabled():
        print(f"\n{died} kills, {'same layout' if same else 'two layouts in turns'}")
    assert steps(folder) == list(range(1, STEPS + 1))
    if same:
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert tiny.apart(found, wanted) < 1e-5


def isolated(model: Path, where: DistributedConfig, layouts: list[list[int]]) -> int:
    loaded = files.read_sharded(model, make_mesh(where))
    for lengths in layouts:
        check_shards(loaded, lengths)
    return len(layouts)


def random_layouts(count: int, size: int, seed: int) -> list[list[int]]:
    """Rows that share out over `size` processes, of one to seven documents; edges on slices and off them."""
    made, out = random.Random(seed), []
    for _ in range(count):
        row = size * made.randint(2, 80 // size)
        edges = set(made.sample(range(1, row), min(made.randint(0, 6), row - 1)))
        if made.random() < 0.5:
            edges.add(row // size)  # just where a slice ends
        cuts = [0, *sorted(edges), row]
        out.append([b - a for a, b in itertools.pairwise(cuts)])
    return out


@pytest.mark.stress
@pytest.mark.parametrize(("size", "count"), [(2, 120), (4, 80)])
def test_random_layouts_are_isolated_to_the_bit(model: Path, size: int, count: int) -> None:
    layouts = random_layouts(count, size, seed=size)
    found = on_ranks(size, isolated, model, tiny.layout(size, context=size), layouts)
    assert found == [count] * size


class Peak(threading.Thread):
    """The most anonymous memory of this process above what it had, in bytes, looked at every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.most = self._now()
        self._end = threading.Event()

    def _now(self) -> int:
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]

    def run(self) -> None:
        while not self._end.wait(0.001):
            self.most = max(self.most, self._now())

    def stop(self) -> int:
        self._end.set()
        self.join()
        return self.most - self.start_bytes


WIDE: dict[str, Any] = {"pattern": "M-------", "hidden_size": 256, "intermediate_size": 8192}
BLOCK_BYTES = 2 * 256 * 8192 * 4


def reads_and_writes(model: Path, target: Path) -> tuple[int, int, int]:
    """Peak bytes of reading, the bytes held then, and the peak of writing."""
    mesh = make_mesh(tiny.layout(2))
    files.FILE_BYTES = BLOCK_BYTES // 2
    peak = Peak()
    peak.start()
    loaded = files.read_sharded(model, mesh)
    reading = peak.stop()
    own = sum(p.to_local().numel() * 4 for p in loaded.parameters())  # type: ignore[attr-defined]
    peak = Peak()
    peak.start()
    files.write_sharded(loaded, target, like=model, tokenizer=tiny.Words())
    return reading, own, peak.stop()


def test_a_rank_holds_its_share_and_little_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven blocks of 16 MiB on two ranks: reading takes less than twice a share and one block, and so does
    writing, beside the share."""
    wide = tiny.checkpoint(tmp_path, **WIDE)
    found = on_ranks(2, reads_and_writes, wide, tmp_path / "out")
    with capsys.disabled():
        print("\n" + "; ".join(f"rank {n}: {f}" for n, f in enumerate(found)))
    for reading, own, writing in found:
        assert own > 3 * BLOCK_BYTES
        # Resident memory also has pages that Python itself takes meanwhile.
        assert reading < 2 * own + BLOCK_BYTES + 2**20
        assert own + writing < 2 * own + BLOCK_BYTES + 2**20
