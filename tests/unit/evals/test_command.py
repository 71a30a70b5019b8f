"""The sweep's command: a signal stops it and keeps what has ended, whatever Ray does to handlers."""

import argparse
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.command import SweepCommand
from evals.run import Progress, Stopped


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_stops_a_sweep_once_ray_has_put_its_own_handler_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    args = argparse.Namespace(
        recipe="recipes/smollm2-table.yaml", overrides=[f"runs_dir={tmp_path}"], run="signals",
        models=str(tmp_path / "model"), benchmarks="gsm8k-100", budgets=None, samples=None, limit=1,
    )  # fmt: skip
    command = SweepCommand.build(args)
    by_ray: list[int] = []

    def connect(*_: Any, **__: Any) -> str:
        signal.signal(signal.SIGTERM, lambda number, _: by_ray.append(number))
        return "started"

    def sweep(models: Any, config: Any, *, out: Path, seed: int, watch: Any) -> Any:
        assert watch(models[0], Progress()) is False
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch(models[0], Progress()) is True
        raise Stopped

    monkeypatch.setattr("workbench.cluster.connect", connect)
    monkeypatch.setattr("workbench.cluster.disconnect", lambda: None)
    monkeypatch.setattr("evals.sweep.sweep", sweep)
    out = io.StringIO()
    assert command.run(out) == 1
    assert by_ray == []
    assert "the same command continues" in out.getvalue()
