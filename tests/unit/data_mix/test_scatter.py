"""How parts are given to Ray's workers, against a Ray that records what is open."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_mix.curate.config import CurateConfig
from data_mix.scatter import ShardJob, scatter


class Cluster:
    """As much of Ray as tasks need: those submitted end one by one, the oldest first."""

    def __init__(self, cpus: int) -> None:
        self.open, self.most, self.cpus = 0, 0, cpus

    def module(self) -> Any:
        return SimpleNamespace(
            is_initialized=lambda: True,
            cluster_resources=lambda: {"CPU": self.cpus},
            remote=lambda work: SimpleNamespace(
                options=lambda **_: SimpleNamespace(
                    remote=lambda job, part: self.submit(work, part)
                )
            ),
            put=lambda job: job,
            wait=lambda tasks, timeout: ([tasks[0]], tasks[1:]),
            get=self.end,
            cancel=lambda task, force: None,
            exceptions=SimpleNamespace(RayTaskError=RuntimeError),
        )

    def submit(self, work: Any, part: int) -> Any:
        self.open += 1
        self.most = max(self.most, self.open)
        return lambda: work(None, part)

    def end(self, task: Any) -> int:
        self.open -= 1
        return int(task())


def opened(monkeypatch: pytest.MonkeyPatch, cpus: int, most: int | None, parts: int) -> int:
    """The most parts that were with Ray at once."""
    cluster = Cluster(cpus)
    monkeypatch.setitem(sys.modules, "ray", cluster.module())
    raw = {"kind": "curate", "input": {"type": "files", "path": "x"}, "steps": [{"type": "code"}]}
    config = CurateConfig.model_validate({**raw, "workers": {"most": most}})
    job = ShardJob("a:b", config, Path("nowhere"), {})
    assert list(scatter(job, range(parts), lambda job, part: part)) == list(range(parts))
    return cluster.most


def test_a_part_for_each_worker_waits_in_rays_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray withdraws its request for a further worker whenever no task waits: shards shorter than a worker's
    start would all be made by the first one."""
    assert opened(monkeypatch, cpus=2, most=None, parts=9) == 4


def test_a_recipes_own_limit_and_a_cluster_without_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, cpus=3, most=3, parts=9) == 6
    assert opened(monkeypatch, cpus=0, most=None, parts=9) == 2
