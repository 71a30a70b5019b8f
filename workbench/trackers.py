"""Trackers beside metrics.jsonl and TensorBoard: Weights & Biases, MLflow, Trackio.

A tracker is a copy for looking at. Nothing of a run depends on it: where its package is missing, it has no
login, or it fails half way, a line says so and the run goes on. Rollouts go along as a table.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from workbench.errors import UserError, one_line
from workbench.schema import Section

ToolName = Literal["wandb", "mlflow", "trackio"]
TOOLS: dict[ToolName, str] = {
    "wandb": "Weights & Biases: online with WANDB_API_KEY or a login, else offline (wandb sync sends it later)",
    "mlflow": "MLflow: to `uri`, else to the folder mlruns of the run",
    "trackio": "Trackio: local, or to a Space of the hub",
}
_COLUMNS = ("step", "prompt", "reply", "reward", "advantage", "status", "parts")
_LONGEST = 4000
ROLLOUTS = "rollouts.jsonl"
# A server that is not there must not hold a run up: MLflow's own defaults try for several minutes.
_MLFLOW_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_WANDB_PATIENCE_S = 20


class TrackerConfig(Section):
    """One tracker of a recipe's `tracking`."""

    tool: ToolName
    """Which one; its package is installed by `pip install`."""
    project: str = "anneal"
    """Project (experiment, for MLflow)."""
    uri: str | None = None
    """MLflow: the tracking server; null: MLFLOW_TRACKING_URI, else the run's folder mlruns. Trackio: a Space.
    W&B: not read."""
    offline: bool = False
    """Send nothing now: W&B and Trackio keep it on this machine. Without a login W&B does so anyway."""
    rollouts: int = Field(16, ge=0)
    """Most rollouts a step in its table; 0: none."""


class TrackerTool(Protocol):
    """What a tracker can do."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step."""

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rollouts of a step, by the columns step, prompt, reply, reward, advantage, status, parts."""

    def close(self) -> None:
        """No more comes."""


def must_be_installed(configs: Sequence[TrackerConfig]) -> None:
    """Raises: UserError where the package of a tracker is missing: asked before a run begins."""
    for config in configs:
        if find_spec(config.tool) is None:
            raise UserError(
                f"tracking: {config.tool} is not installed; install it (python -m pip install {config.tool}), "
                "or leave it out of `tracking`"
            )


class Trackers:
    """All trackers of a stage. No method raises; `lines` has what went wrong, a line each."""

    def __init__(
        self,
        configs: Sequence[TrackerConfig],
        stage_dir: Path,
        facts: Mapping[str, Any],
        open_tool: Callable[[TrackerConfig, Path, Mapping[str, Any]], TrackerTool] | None = None,
    ) -> None:
        """facts: of the run, for the tracker's own page; with keys run and stage."""
        self.lines: list[str] = []
        self._rollouts, self._read = stage_dir / ROLLOUTS, 0
        if self._rollouts.is_file():  # of an earlier attempt, which has sent them
            self._read = self._rollouts.stat().st_size
        self._open: list[tuple[TrackerConfig, TrackerTool]] = []
        for config in configs:
            self._try(config, lambda c=config: self._begin(c, stage_dir, facts, open_tool or start))  # type: ignore[misc]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step, with the rollouts that have been written since the last one."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        rows = self._new_rollouts() if any(c.rollouts for c, _ in self._open) else []
        for config, tool in list(self._open):
            self._try(config, lambda c=config, t=tool: self._send(c, t, step, finite, rows))  # type: ignore[misc]

    def close(self) -> None:
        """Close all."""
        for config, tool in list(self._open):
            self._try(config, tool.close)
        self._open = []

    def _begin(
        self,
        config: TrackerConfig,
        stage_dir: Path,
        facts: Mapping[str, Any],
        open_tool: Callable[[TrackerConfig, Path, Mapping[str, Any]], TrackerTool],
    ) -> None:
        self._open.append((config, open_tool(config, stage_dir, facts)))

    @staticmethod
    def _send(
        config: TrackerConfig,
        tool: TrackerTool,
        step: int,
        values: Mapping[str, float],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        tool.log(step, values)
        if rows and config.rollouts:
            tool.table(step, rows[: config.rollouts])

    def _try(self, config: TrackerConfig, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - of any package: a run never ends by its tracker
            self.lines.append(
                f"tracking: {config.tool} failed ({one_line(error)[:200]}) and is left out from here on; "
                "metrics.jsonl has everything"
            )
            self._open = [(c, t) for c, t in self._open if c is not config]

    def _new_rollouts(self) -> list[dict[str, Any]]:
        """Whole lines that rollouts.jsonl has grown by."""
        if not self._rollouts.is_file():
            return []
        size = self._rollouts.stat().st_size
        if size < self._read:  # cut back by a resumed stage
            self._read = 0
        with self._rollouts.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [_row(json.loads(line)) for line in whole.splitlines()]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """As a table takes it: texts of a bounded length, parts as JSON."""
    found = {name: row.get(name) for name in _COLUMNS}
    for name in ("prompt", "reply"):
        found[name] = str(found[name] or "")[-_LONGEST:]
    return found | {"parts": json.dumps(found["parts"], ensure_ascii=False, default=str)}


def start(config: TrackerConfig, stage_dir: Path, facts: Mapping[str, Any]) -> TrackerTool:
    """The tracker's own run for a stage."""
    return _STARTS[config.tool](config, stage_dir, facts)


class _Wandb:
    """wandb.init, Run.log, wandb.Table, Run.finish."""

    def __init__(self, config: TrackerConfig, stage_dir: Path, facts: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415 - optional

        self._wandb = wandb
        offline = config.offline or not _has_login(wandb)
        self._run = wandb.init(
            project=config.project,
            group=str(facts["run"]),
            name=f"{facts['run']}/{facts['stage']}",
            config=dict(facts),
            dir=str(stage_dir),
            mode="offline" if offline else "online",
            settings=wandb.Settings(silent=True, console="off", init_timeout=_WANDB_PATIENCE_S),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step}, step=step)

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        data = [[row[name] for name in _COLUMNS] for row in rows]
        self._run.log({"rollouts": self._wandb.Table(columns=list(_COLUMNS), data=data)}, step=step)

    def close(self) -> None:
        self._run.finish()


def _has_login(wandb: Any) -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.Api(timeout=5).api_key)
    except Exception:  # noqa: BLE001 - it says in many ways that it has none
        return False


class _Mlflow:
    """MlflowClient: create_run, log_batch, log_table by client, set_terminated."""

    def __init__(self, config: TrackerConfig, stage_dir: Path, facts: Mapping[str, Any]) -> None:
        for name, value in _MLFLOW_PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param  # noqa: PLC0415 - optional
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 - same

        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if (
            uri is None
        ):  # a folder needs neither a server nor a database package, and must be asked for
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (stage_dir.parent / "mlruns").absolute().as_uri()
        self._client = MlflowClient(uri)
        self._metric, self._folder = Metric, stage_dir
        found = self._client.get_experiment_by_name(config.project)
        experiment = (
            found.experiment_id if found else self._client.create_experiment(config.project)
        )
        name = f"{facts['run']}/{facts['stage']}"
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        shown = [Param(str(key), str(value)[:500]) for key, value in facts.items()]
        self._client.log_batch(self._run, params=shown)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        import time  # noqa: PLC0415 - only here

        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        # As log_table writes it; that one needs pandas.
        columns = {"columns": list(_COLUMNS), "data": [[row[c] for c in _COLUMNS] for row in rows]}
        self._client.log_dict(self._run, columns, f"rollouts/step-{step:06d}.json")

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Trackio:
    """trackio.init, Run.log, trackio.Table, Run.finish."""

    def __init__(self, config: TrackerConfig, stage_dir: Path, facts: Mapping[str, Any]) -> None:
        import trackio  # noqa: PLC0415 - optional

        self._trackio = trackio
        self._run = trackio.init(
            project=config.project,
            name=f"{facts['run']}-{facts['stage']}",
            config=dict(facts),
            space_id=None if config.offline else config.uri,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        import pandas  # noqa: PLC0415 - trackio's own requirement

        self._run.log(
            {"rollouts": self._trackio.Table(dataframe=pandas.DataFrame(rows))}, step=step
        )

    def close(self) -> None:
        self._run.finish()


_STARTS: dict[str, Callable[[TrackerConfig, Path, Mapping[str, Any]], TrackerTool]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}
