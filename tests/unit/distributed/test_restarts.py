"""Workers that are lost are started again; those that fail by themselves are not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from workbench.content import pinned
from workbench.distributed import launch, room
from workbench.distributed.config import DistributedConfig
from workbench.errors import StopRequested, UserError
from workbench.recipe import build
from workbench.rundir import RunDir, write_json
from workbench.stage import StageContext


class Context:
    """A stage's context, as far as `run_workers` reads it."""

    def __init__(self, folder: Path, *, stops: bool = False) -> None:
        self.stage_dir, self.outputs, self.name = folder, dict[str, Any](), "grpo"
        self.found: dict[str, Any] = {"held_out_before": [1.0]}
        self.run = SimpleNamespace(manifest=lambda name: SimpleNamespace(outputs=self.found))
        self.should_stop = lambda: stops

    def warn(self, *lines: str) -> None:
        self.outputs["warnings"] = [*self.outputs.get("warnings", []), *lines]


def started(
    monkeypatch: pytest.MonkeyPatch, context: Context, ends: list[str | None], restarts: int
) -> int:
    """How often workers were started. ends: how each start lost one, or None."""
    count = 0

    def once(context: Any, config: Any, work: str) -> str | None:
        nonlocal count
        end, count = ends[count], count + 1
        if end is None:
            result = {"status": "done", "outputs": context.outputs | {"steps": 3}, "message": ""}
            write_json(context.stage_dir / "workers" / "result.json", result)
        return end

    (context.stage_dir / "workers").mkdir(exist_ok=True)
    monkeypatch.setattr(launch, "_run_once", once)
    monkeypatch.setattr(launch, "wait_for_room", lambda context, config: None)
    spread = DistributedConfig(workers=2, strategy="fsdp", restarts=restarts)
    launch.run_workers(context, spread, "x:y")  # type: ignore[arg-type]
    return count


def test_lost_workers_are_started_again_with_what_was_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = Context(tmp_path)
    assert started(monkeypatch, context, ["rank 1 is gone", "rank 0 is gone", None], 2) == 3
    assert context.outputs["steps"] == 3 and context.outputs["held_out_before"] == [1.0]
    assert [line.split(": ")[1] for line in context.outputs["warnings"]] == [
        "rank 1 is gone",
        "rank 0 is gone",
    ]


@pytest.mark.parametrize(("restarts", "stops"), [(0, False), (2, True)])
def test_no_more_often_than_allowed_and_not_after_a_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restarts: int, stops: bool
) -> None:
    with pytest.raises(RuntimeError, match="a worker was lost: gone"):
        started(monkeypatch, Context(tmp_path, stops=stops), ["gone"], restarts)


class Waiting:
    """A stage's context while it waits, and machines that come after some looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cpus: float, stops_at: int = 99) -> None:
        self.cpus, self.said, self.looks, self.stops_at = list(cpus), list[str](), 0, stops_at
        monkeypatch.setattr(room, "answering", lambda should_stop: {"CPU": self.cpus.pop(0)})
        monkeypatch.setattr(room, "_LOOK_S", 0.0)

    def should_stop(self) -> bool:
        self.looks += 1
        return self.looks > self.stops_at

    def stop(self) -> None:
        raise StopRequested("stopped as asked")

    def progress(self, *, message: str) -> None:
        self.said.append(message)


def test_a_lost_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = DistributedConfig(workers=4, strategy="fsdp", cpus_per_worker=2.0, wait_s=60)
    context = Waiting(monkeypatch, 4.0, 6.0, 8.0)
    room.wait_for_room(context, spread)  # type: ignore[arg-type]
    assert context.said == [
        "waiting for a machine: 4 workers need 8 CPUs (2 each) and the cluster has 4",
        "waiting for a machine: 4 workers need 8 CPUs (2 each) and the cluster has 6",
    ]


def test_one_that_does_not_come_ends_the_stage_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = DistributedConfig(workers=4, strategy="fsdp", wait_s=0)
    said = (
        "a machine was lost, and 0 s later 4 workers need 4 CPUs .* the cluster has 3; add one or"
    )
    with pytest.raises(UserError, match=said):
        room.wait_for_room(Waiting(monkeypatch, 3.0), spread)  # type: ignore[arg-type]
    waits = DistributedConfig(workers=4, strategy="fsdp", wait_s=60)
    with pytest.raises(StopRequested):
        room.wait_for_room(Waiting(monkeypatch, 3.0, 3.0, stops_at=1), waits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stops_at", "answer_s", "waits"), [(2, 60.0, 2), (99, 0.0, 0)])
def test_a_machine_that_does_not_answer_holds_no_stop_up_and_keeps_no_task(
    monkeypatch: pytest.MonkeyPatch, stops_at: int, answer_s: float, waits: int
) -> None:
    """Ray's calls are replaced: the task of one machine ends, that of the other never does."""
    waited, cancelled = list[float](), list[str]()
    there, gone = "a" * 56, "b" * 56  # as Ray numbers machines

    class Task:
        def options(self, *, scheduling_strategy: Any) -> "Task":
            self.node = scheduling_strategy.node_id
            return self

        def remote(self) -> str:
            return str(self.node)

    def wait(asked: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        waited.append(timeout)
        assert num_returns == len(asked) and len(waited) < 9
        return [n for n in asked if n == there], [n for n in asked if n == gone]

    nodes = [
        {"NodeID": node, "Alive": True, "Resources": {"CPU": cpus}}
        for node, cpus in ((there, 4), (gone, 8))
    ]
    for name, does in {
        "nodes": lambda: nodes, "remote": lambda **_: lambda _: Task(), "wait": wait,
        "cancel": cancelled.append, "get": lambda _: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(ray, name, does)
    monkeypatch.setattr(room, "_ANSWER_S", answer_s)
    looks = iter(range(100))
    found = room.answering(lambda: next(looks) >= stops_at)
    assert waited == [room._LOOK_S] * waits
    assert (found, cancelled) == (({"CPU": 4}, [gone]) if waits else ({}, [there, gone]))


def test_a_worker_that_does_not_see_the_run_says_so_in_one_line(tmp_path: Path) -> None:
    """As Ray Train passes it on, within a trace."""
    with pytest.raises(UserError, match="is not to be seen on node .*; set runs_dir") as raised:
        launch._in_worker({"root": str(tmp_path / "elsewhere")})
    told = launch._UNSEEN.search(f"Training failed\n[Rank 1]\nUserError: {raised.value}\n\nmore")
    assert told is not None and told[0] == str(raised.value)


def test_a_worker_that_fails_by_itself_says_why(tmp_path: Path) -> None:
    assert launch._how_lost(tmp_path, "SIGKILL") == "SIGKILL"
    peer = "[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242"
    write_json(
        tmp_path / "failure-0.json", {"message": peer, "lost": bool(launch._LOST.search(peer))}
    )
    assert launch._how_lost(tmp_path, "SIGKILL") == peer
    own = "loss nan or gradient norm 1.0 is not finite at step 3"
    write_json(
        tmp_path / "failure-1.json", {"message": own, "lost": bool(launch._LOST.search(own))}
    )
    with pytest.raises(RuntimeError, match="not finite at step 3"):
        launch._how_lost(tmp_path, "SIGKILL")


def test_workers_read_the_commits_that_the_stage_has_pinned(tmp_path: Path) -> None:
    """The recipe names none, and the newest may be another one by the time that a worker looks."""
    part = {"source": {"type": "hub", "id": "one/set"}, "samples": 5}
    recipe = build({"name": "t", "stages": {"sft": {"kind": "sft", "parts": {"p": part}}}})
    config = pinned(recipe.stages["sft"], lambda mark, name: "c0ffee")
    context = StageContext("sft", config, recipe, RunDir(tmp_path), {"base": tmp_path / "base"})
    job = json.loads(json.dumps(launch.job_of(context, "x:y", on_gpu=False)))
    there = launch.context_of(job)
    assert there.config == context.config
    assert [p.source.revision for p in there.config.parts.values()] == ["c0ffee"]
    assert there.inputs == context.inputs and there.recipe == recipe
