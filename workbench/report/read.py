"""Read what a run left behind. The run may be half done, failed, or being written just now."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeGuard

from workbench.errors import UserError
from workbench.progress import read_progress
from workbench.report.checkpoints import Checkpoints
from workbench.rundir import Manifest, RunDir, read_json, read_json_lines
from workbench.statistics import Estimate, problem_of
from workbench.tracking import read_metrics

StageStatus = Literal["done", "failed", "unfinished", "not started"]
_LOG_LINES = 20


@dataclass(frozen=True)
class StageFacts:
    """One stage of the recipe. `unfinished`: running now, or stopped and resumable."""

    name: str
    status: StageStatus
    config: dict[str, Any]
    manifest: Manifest | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    log_tail: str = ""

    @property
    def kind(self) -> str:
        """The stage's kind."""
        return str(self.config.get("kind", "?"))

    @property
    def outputs(self) -> dict[str, Any]:
        """What the stage wrote into its manifest."""
        return self.manifest.outputs if self.manifest else {}

    def series(self, name: str, *, x: str = "step") -> list[tuple[float, float]]:
        """(x, value) of a metric wherever both are numbers."""
        pairs = ((line.get(x), line.get(name)) for line in self.metrics)
        return [(a, b) for a, b in pairs if _is_number(a) and _is_number(b)]


@dataclass(frozen=True)
class Result:
    """One results.json; budget None means no limit on thinking, 0 reasoning off. stale: it is of an
    earlier checkpoint of its stage."""

    model: str
    benchmark: str
    budget: int | None
    data: dict[str, Any]
    folder: Path
    stale: bool = False

    @property
    def estimate(self) -> Estimate:
        """Accuracy (else the first metric); n counts the questions with a scored sample."""
        metrics = self.data["metrics"]
        name = "accuracy" if "accuracy" in metrics else next(iter(metrics))
        found = metrics[name]
        low, high = (_number(v) for v in found["ci95"])
        n = len(self.values) or int(self.data["n"])
        return Estimate(_number(found["value"]), _number(found["stderr"]), low, high, n)

    @cached_property
    def values(self) -> dict[str, float]:
        """Question id -> mean value of its scored samples. Texts are not kept: they are large."""
        return {key: sum(values) / len(values) for key, (values, _) in self._questions.items()}

    @cached_property
    def problems(self) -> dict[str, str]:
        """Question id -> what it asks; the same for its other wordings."""
        return {key: problem for key, (_, problem) in self._questions.items()}

    @cached_property
    def _questions(self) -> dict[str, tuple[list[float], str]]:
        found: dict[str, tuple[list[float], str]] = {}
        for row in self.rows():
            if _is_number(row.get("value")):
                key = str(row.get("id"))
                found.setdefault(key, ([], problem_of({**row, "id": key})))[0].append(
                    float(row["value"])
                )
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of samples.jsonl; a torn one is passed over."""
        return read_json_lines(self.folder / "samples.jsonl")


@dataclass(frozen=True)
class RunFacts:
    """Everything the report shows. problems: files that could not be read, one line each."""

    root: Path
    recipe: dict[str, Any]
    stages: dict[str, StageFacts]
    results: dict[tuple[str, str, int | None], Result]
    """(model, benchmark, budget) -> result."""
    problems: list[str]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @cached_property
    def models(self) -> list[str]:
        """Models that were or are to be evaluated, in recipe order; others after them."""
        wanted = {m for s in self.stages.values() if s.kind == "evals" for m in _evaluated(s)}
        found = {model for model, _, _ in self.results}
        rank = {name: place for place, name in enumerate(self.stages)}
        return sorted(wanted | found, key=lambda name: (rank.get(name, len(rank)), name))

    @cached_property
    def evaluated(self) -> list[str]:
        """Models with a result of their present checkpoint, in the report's order."""
        found = {model for (model, _, _), result in self.results.items() if not result.stale}
        return [model for model in self.models if model in found]

    def current(self, model: str, benchmark: str, budget: int | None = None) -> Result | None:
        """The result, unless there is none or it is of an earlier checkpoint."""
        result = self.results.get((model, benchmark, budget))
        return None if result is None or result.stale else result

    @cached_property
    def benchmarks(self) -> list[str]:
        """Benchmarks with a result, in the recipe's order."""
        listed = [
            str(name)
            for stage in self.stages.values()
            if stage.kind == "evals"
            for name in stage.config.get("benchmarks", [])
        ]
        found = {benchmark for _, benchmark, _ in self.results}
        rank = {name: place for place, name in enumerate(dict.fromkeys(listed))}
        return sorted(found, key=lambda name: (rank.get(name, len(rank)), name))

    def parent(self, model: str) -> str | None:
        """The nearest evaluated model that this one was trained from, or None."""
        seen, waiting = set[str](), list(self._needs(model))
        while waiting:
            name = waiting.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if name in self.models:
                return name
            waiting.extend(self._needs(name))
        return None

    def _needs(self, stage: str) -> list[str]:
        return list(self.stages[stage].config.get("needs", [])) if stage in self.stages else []


def _evaluated(stage: StageFacts) -> list[str]:
    return list(stage.config.get("models") or stage.config.get("needs") or [])


def read_run(root: Path) -> RunFacts:
    """Everything the report shows. Raises: UserError where `root` holds no run."""
    recipe_path = root / "recipe.json"
    if not recipe_path.is_file():
        raise UserError(f"{root} holds no run (no recipe.json); give a run's name or folder")
    problems: list[str] = []
    recipe = read_json(recipe_path)
    stages_of = recipe.get("stages") if isinstance(recipe, dict) else None
    if not isinstance(stages_of, dict) or not all(isinstance(s, dict) for s in stages_of.values()):
        raise UserError(f"{recipe_path} is no resolved recipe; run the stages again to write it")
    stages = {name: _stage(RunDir(root), name, c, problems) for name, c in stages_of.items()}
    checkpoints = Checkpoints.of(s.manifest for s in stages.values() if s.manifest)
    results = _results(root / "evals", checkpoints, problems)
    return RunFacts(root, recipe, stages, results, problems)


def _stage(run: RunDir, name: str, config: dict[str, Any], problems: list[str]) -> StageFacts:
    folder = run.stage(name)
    try:
        manifest = run.manifest(name)
    except UserError as error:
        problems.append(str(error))
        return StageFacts(name, "failed", config)
    if manifest is None:
        return StageFacts(name, "not started", config)
    try:
        metrics = read_metrics(folder / "metrics.jsonl")
    except ValueError as error:
        problems.append(str(error))
        metrics = []
    status: StageStatus = "unfinished" if manifest.status == "running" else manifest.status
    tail = _log_tail(folder / "log.txt") if status == "failed" else ""
    progress = read_progress(folder / "progress.json")
    return StageFacts(name, status, config, manifest, metrics, progress, tail)


def _results(
    folder: Path, checkpoints: Checkpoints, problems: list[str]
) -> dict[tuple[str, str, int | None], Result]:
    out: dict[tuple[str, str, int | None], Result] = {}
    for path in sorted(folder.glob("*/*/results.json")):
        data = _json_mapping(path, problems)
        try:
            budget = data["budget"]
            result = Result(
                model=path.parents[1].name,
                benchmark=str(data["benchmark"]),
                budget=None if budget is None else int(budget),
                data=data,
                folder=path.parent,
                stale=checkpoints.is_earlier(path.parents[1].name, data),
            )
            _ = result.estimate  # read here, so that an incomplete file is one problem, not a crash
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            if data:
                problems.append(f"{path}: not a result of this version ({error!r})")
            continue
        out[result.model, result.benchmark, result.budget] = result
    return out


def _json_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read ({error})")
        return {}
    return value if isinstance(value, dict) else {}


def _log_tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(0, 2)
        log.seek(max(log.tell() - 16_384, 0))
        text = log.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
