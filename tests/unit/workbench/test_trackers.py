"""Trackers: what is sent to each, by stubs of its documented calls, and that none can end a run."""

import json
import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from workbench.errors import UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext
from workbench.trackers import _MLFLOW_PATIENCE, TrackerConfig, Trackers, must_be_installed

FACTS = {"run": "r", "stage": "grpo", "kind": "grpo"}
ROLLOUT = {
    "step": 1,
    "prompt": "2+2",
    "reply": "4",
    "reward": 1.0,
    "advantage": 0.5,
    "status": "ok",
    "parts": {"a": 1},
}


@pytest.fixture
def no_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tracker sets in the environment is not there before a test, and not after it."""
    for name in (*_MLFLOW_PATIENCE, "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(
            name, ""
        )  # of a variable that is not there, delenv alone restores nothing
        monkeypatch.delenv(name)


class Heard:
    """A tool that keeps what it hears, and breaks at a step."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.tables: list[tuple[int, list[dict[str, Any]]]] = []
        self.closed, self._breaks_at = False, breaks_at

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Tool."""
        if step == self._breaks_at:
            raise ConnectionError("the server\nhas gone")
        self.values.append((step, dict(values)))

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """See Tool."""
        self.tables.append((step, [dict(row) for row in rows]))

    def close(self) -> None:
        """See Tool."""
        self.closed = True


def _rollouts(folder: Path, *rows: Mapping[str, Any], torn: str = "") -> None:
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + torn)


def test_each_step_sends_its_values_and_the_rollouts_since_the_last_one(tmp_path: Path) -> None:
    _rollouts(tmp_path, {**ROLLOUT, "step": 0})  # an earlier attempt has sent these
    heard = Heard()
    config = TrackerConfig(tool="wandb", rollouts=2)
    trackers = Trackers([config], tmp_path, FACTS, lambda *_: heard)
    _rollouts(tmp_path, ROLLOUT, ROLLOUT, ROLLOUT, torn='{"step": 2, "pro')
    trackers.log(1, {"reward": 0.25, "odd": float("nan")})
    trackers.log(2, {"reward": 0.5})
    _rollouts(tmp_path, torn='mpt": "3+3"}\n')
    trackers.log(3, {"reward": 0.75})
    trackers.close()
    assert heard.values == [(1, {"reward": 0.25}), (2, {"reward": 0.5}), (3, {"reward": 0.75})]
    assert [(step, len(rows)) for step, rows in heard.tables] == [(1, 2), (3, 1)]
    assert heard.tables[0][1][0] == {**ROLLOUT, "parts": '{"a": 1}'}
    assert heard.closed and trackers.lines == []


def test_a_tracker_that_breaks_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = Heard(), Heard(breaks_at=2)
    tools = iter([bad, good])
    both = [TrackerConfig(tool="mlflow"), TrackerConfig(tool="wandb")]
    trackers = Trackers(both, tmp_path, FACTS, lambda *_: next(tools))
    for step in (1, 2, 3):
        trackers.log(step, {"loss": float(step)})
    assert [step for step, _ in good.values] == [1, 2, 3]
    assert [step for step, _ in bad.values] == [1]
    (line,) = trackers.lines
    assert line.startswith("tracking: mlflow failed (ConnectionError: the server has gone)")
    assert "\n" not in line


def test_a_tracker_that_cannot_begin_is_a_line_in_the_manifest_and_loses_no_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = ModuleType("wandb")
    stub.__dict__["init"] = lambda **_: (_ for _ in ()).throw(
        RuntimeError("api_key not configured")
    )
    stub.__dict__["Settings"] = lambda **_: None
    monkeypatch.setitem(sys.modules, "wandb", stub)
    raw = {
        "name": "r",
        "tracking": [{"tool": "wandb"}],
        "stages": {"t": {"kind": "tokenizer", "source": {"type": "world"}}},
    }
    raw["stages"] = {"e": {"kind": "evals", "benchmarks": ["mini-math"]}}
    recipe = build(raw)
    context = StageContext("e", recipe.stages["e"], recipe, RunDir(tmp_path), {})
    context.log_metrics(1, {"loss": 2.0})
    context.close()
    assert "api_key not configured" in context.outputs["warnings"][0]
    (line,) = (tmp_path / "e" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 2.0


def test_wandb_is_called_as_its_manual_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda data, step: calls.append(("log", (data, step))),
        finish=lambda: calls.append(("finish", None)),
    )
    stub = ModuleType("wandb")
    stub.__dict__.update(
        init=lambda **given: calls.append(("init", given)) or run,  # type: ignore[func-returns-value]
        Settings=lambda **given: given,
        Table=lambda columns, data: ("table", columns, data),
    )
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trackers = Trackers([TrackerConfig(tool="wandb", project="p")], tmp_path, FACTS)
    _rollouts(tmp_path, ROLLOUT)
    trackers.log(4, {"loss": 1.0})
    trackers.close()
    assert trackers.lines == []
    begun = calls[0][1]
    assert (begun["project"], begun["group"], begun["name"], begun["mode"]) == (
        "p",
        "r",
        "r/grpo",
        "offline",
    )
    assert (
        begun["settings"]["init_timeout"] <= 20
    )  # else a server that is not there takes 90 s a stage
    assert calls[1] == ("log", ({"loss": 1.0, "step": 4}, 4))
    (data, step) = calls[2][1]
    assert step == 4 and data["rollouts"][1][:3] == ["step", "prompt", "reply"]
    assert data["rollouts"][2][0][:4] == [1, "2+2", "4", 1.0]
    assert calls[-1] == ("finish", None)


def test_a_package_that_is_missing_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="python -m pip install trackio"):
        must_be_installed([TrackerConfig(tool="trackio")])
    must_be_installed([])


@pytest.mark.usefixtures("no_mlflow_settings")
def test_mlflow_keeps_values_and_rollouts_in_its_own_store(tmp_path: Path) -> None:
    """The real client, where it is installed; a folder is its store."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    stage = tmp_path / "grpo"
    stage.mkdir()
    store = (tmp_path / "mlruns").as_uri()
    trackers = Trackers([TrackerConfig(tool="mlflow", project="p")], stage, FACTS)
    _rollouts(stage, ROLLOUT)
    trackers.log(1, {"loss": 3.0})
    trackers.log(2, {"loss": 2.0})
    trackers.close()
    assert trackers.lines == []
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [3.0, 2.0]


@pytest.mark.usefixtures("no_mlflow_settings")
def test_a_server_that_is_not_there_is_one_line_and_does_not_hold_the_run_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub of the client, which says how patient it was told to be when it is made."""
    seen: list[tuple[str, int]] = []

    def client(uri: str) -> Any:
        seen.append((uri, int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7"))))
        raise ConnectionError("Max retries exceeded\nwith url")

    for name, made in (
        ("mlflow", {}),
        ("mlflow.entities", {"Metric": None, "Param": None}),
        ("mlflow.tracking", {"MlflowClient": client}),
    ):
        stub = ModuleType(name)
        stub.__dict__.update(made)
        monkeypatch.setitem(sys.modules, name, stub)
    config = TrackerConfig(tool="mlflow", uri="http://127.0.0.1:9")
    trackers = Trackers([config], tmp_path, FACTS)
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert seen == [("http://127.0.0.1:9", 2)]
    (line,) = trackers.lines
    assert line.startswith(
        "tracking: mlflow failed (ConnectionError: Max retries exceeded with url)"
    )


@pytest.mark.usefixtures("no_mlflow_settings")
def test_the_real_mlflow_gives_a_server_up_soon(tmp_path: Path) -> None:
    """The real client, where it is installed, and a port at which nobody listens. It has read our patience."""
    settings = pytest.importorskip("mlflow.environment_variables")
    config = TrackerConfig(tool="mlflow", uri="http://127.0.0.1:9")
    trackers = Trackers([config], tmp_path, FACTS)
    trackers.log(1, {"loss": 1.0})
    (line,) = trackers.lines
    assert "127.0.0.1" in line and "\n" not in line
    assert settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2
    assert settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get() == 1
    assert settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 10


def test_wandb_writes_offline_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, where it is installed."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = TrackerConfig(tool="wandb")
    trackers = Trackers([config], tmp_path, FACTS)
    trackers.log(1, {"loss": 3.0})
    trackers.close()
    assert trackers.lines == []
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_trackio_keeps_values_and_rollouts_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, where it is installed."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    trackers = Trackers([TrackerConfig(tool="trackio", project="p")], tmp_path, FACTS)
    _rollouts(tmp_path, ROLLOUT)
    trackers.log(1, {"loss": 3.0})
    trackers.close()
    assert trackers.lines == []
    with closing(sqlite3.connect(tmp_path / "trackio" / "p.db")) as kept:
        found = [json.loads(row) for (row,) in kept.execute("select metrics from metrics")]
    assert {"loss": 3.0} in found
    (table,) = [values["rollouts"] for values in found if "rollouts" in values]
    assert table["_value"][0]["reply"] == "4"
