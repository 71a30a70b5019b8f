"""How a run ends: exit codes, what a stopped or failed stage leaves, seeds of its stages."""

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench import registry
from workbench.errors import UserError
from workbench.graph import execute
from workbench.graph.execute import drive
from workbench.placement import Node
from workbench.recipe import ClusterSection, Recipe, build
from workbench.rundir import RunDir
from workbench.stage import StageContext

PART = {"math": {"source": {"type": "world", "domain": "math"}, "samples": 5}}
ACTS: dict[str, Callable[[StageContext], None]] = {}


def play(context: StageContext) -> None:
    """In place of a stage kind's `run`: what the test says for this stage."""
    ACTS.get(context.name, lambda context: None)(context)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunDir:
    plain = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda t: play if t == "sft.stage:run" else plain(t))
    ACTS.clear()
    return RunDir(tmp_path / "run")


def recipe() -> Recipe:
    stages: dict[str, Any] = {
        "a": {"kind": "sft", "parts": PART},
        "b": {"kind": "sft", "needs": ["a"], "parts": PART},
    }
    return build({"name": "t", "cluster": {"backend": "local"}, "stages": stages})


def go(run: RunDir) -> int:
    with run.claimed():
        run.adopt(recipe().resolved())
        return drive(recipe(), run, ["a", "b"], fresh=set(), out=io.StringIO())


def statuses(run: RunDir) -> list[str | None]:
    found = [run.manifest(name) for name in ("a", "b")]
    return [None if manifest is None else manifest.status for manifest in found]


def test_a_run_that_is_done_is_exit_code_0_and_is_not_repeated(run: RunDir) -> None:
    calls: list[str] = []
    ACTS["a"] = ACTS["b"] = lambda context: calls.append(context.name)
    assert go(run) == go(run) == 0
    assert calls == ["a", "b"]
    assert statuses(run) == ["done", "done"]


def test_a_stage_that_fails_is_exit_code_1_and_nothing_follows(run: RunDir) -> None:
    def fails(context: StageContext) -> None:
        raise RuntimeError("the loss is not finite")

    ACTS["a"] = fails
    assert go(run) == 1
    assert statuses(run) == ["failed", None]
    manifest = run.manifest("a")
    assert manifest is not None and manifest.error == "RuntimeError: the loss is not finite"
    assert manifest.completion is None


def test_a_users_mistake_inside_a_stage_is_raised_as_one(run: RunDir) -> None:
    """`workbench.command.finish` makes it exit code 2."""

    def refuses(context: StageContext) -> None:
        raise UserError("no such column")

    ACTS["a"] = refuses
    with pytest.raises(UserError, match="stage 'a': no such column"):
        go(run)
    assert statuses(run) == ["failed", None]


def test_a_stage_that_stops_is_not_done_and_is_continued_with_what_it_has(run: RunDir) -> None:
    def stops(context: StageContext) -> None:
        context.outputs["so far"] = 3
        context.stop()

    ACTS["a"] = stops
    assert go(run) == 1
    assert statuses(run) == ["running", None]
    found: list[dict[str, Any]] = []
    ACTS["a"] = lambda context: found.append(dict(context.outputs))
    assert go(run) == 0
    assert found == [{"so far": 3}]
    manifest = run.manifest("a")
    assert manifest is not None and (manifest.attempts, manifest.status) == (2, "done")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_stage_of_this_process_at_once(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    passed: list[str] = []

    def hangs(context: StageContext) -> None:
        for word in ("once", "the same, passed on", "twice"):
            if word == "twice":
                monkeypatch.setattr(execute, "_SAME_SIGNAL_S", 0.0)
            signal.raise_signal(number)
            passed.append(word)

    ACTS["a"] = hangs
    with pytest.raises(KeyboardInterrupt):
        go(run)
    assert passed == ["once", "the same, passed on"]
    assert statuses(run) == ["running", None]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    ACTS["a"] = lambda context: None
    assert go(run) == 0 and statuses(run) == ["done", "done"]


def test_each_stage_draws_from_a_seed_of_its_own(run: RunDir) -> None:
    seeds: dict[str, int] = {}
    ACTS["a"] = ACTS["b"] = lambda context: seeds.update({context.name: context.seed})
    assert go(run) == 0
    assert seeds["a"] != seeds["b"]
    manifests = [run.manifest(name) for name in ("a", "b")]
    assert [m.seed for m in manifests if m is not None] == [seeds["a"], seeds["b"]]


def test_a_result_that_is_made_again_is_another_result(run: RunDir) -> None:
    """Even of the same configuration: what stands behind it was made from the one before."""
    calls: list[str] = []
    ACTS["a"] = ACTS["b"] = lambda context: calls.append(context.name)
    assert go(run) == 0
    first = run.manifest("a")
    run.set_aside("a")
    assert go(run) == 0
    again = run.manifest("a")
    assert first is not None and again is not None
    assert first.completion != again.completion
    assert calls == ["a", "b", "a", "b"]


def test_a_joined_clusters_cards_are_judged_before_any_stage_runs(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    joined = recipe().model_copy(update={"cluster": ClusterSection(address="head:6379")})
    monkeypatch.setattr(execute.cluster, "connect", lambda *a, **k: "joined")
    monkeypatch.setattr(execute.cluster, "disconnect", lambda: None)
    monkeypatch.setattr(execute.cluster, "nodes", lambda: [Node(8, 1)])
    monkeypatch.setattr(execute, "memory_of_cards", lambda: [24e9, 80e9])

    def check(settled: Recipe, stages: Any, cards: Any) -> None:
        asked.append((settled.stages["a"].gpus, list(stages), cards))
        raise UserError("too small")

    with run.claimed():
        run.adopt(recipe().resolved())
        with pytest.raises(UserError, match="too small"):
            drive(joined, run, ["a", "b"], fresh=set(), out=io.StringIO(), check=check)
    assert asked == [(1.0, ["a", "b"], [24e9, 80e9])]
    assert statuses(run) == [None, None]
