"""Read what a run left behind. The run may be half done, failed, or being written just now."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from budget.curves import CONTRASTS, CURVES, Curve
from workbench.errors import UserError, one_line
from workbench.progress import read_progress
from workbench.records import (
    RESULT,
    UNKNOWN,
    Estimate,
    ModelDifference,
    Questions,
    Result,
    questions_of,
    read_list,
    read_result,
    read_samples,
)
from workbench.registry import kinds
from workbench.results import StageResult, read_outputs
from workbench.rundir import Manifest, RunDir, read_json
from workbench.tracking import read_metrics

StageStatus = Literal["done", "failed", "unfinished", "not started"]
T = TypeVar("T")
_LOG_LINES = 20
_COMPARISONS = "comparisons.json"


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
    result: StageResult = field(default_factory=StageResult)
    """What the stage wrote into its manifest."""

    @property
    def kind(self) -> str:
        """The stage's kind."""
        return str(self.config.get("kind", "?"))

    def series(self, name: str, *, x: str = "step") -> list[tuple[float, float]]:
        """(x, value) of a metric wherever both are numbers."""
        pairs = ((line.get(x), line.get(name)) for line in self.metrics)
        return [(a, b) for a, b in pairs if _is_number(a) and _is_number(b)]


@dataclass(frozen=True)
class Evaluation:
    """One folder of results. model: the folder's name for it. stale: of an earlier checkpoint of its
    stage."""

    model: str
    result: Result
    questions: Questions
    folder: Path
    stale: bool = False

    @property
    def estimate(self) -> Estimate:
        """Accuracy (else the first metric); n counts the questions with a scored sample."""
        metrics = self.result.metrics
        found = metrics.get("accuracy") or next(iter(metrics.values()))
        return replace(found, n=len(self.questions) or self.result.n)

    @property
    def headline(self) -> Estimate:
        """The metric that the benchmark is quoted by."""
        return self.result.metrics.get(self.result.headline, UNKNOWN)

    @property
    def page(self) -> str:
        """Address of its samples' page, from the evaluations' own."""
        return f"{self.folder.parent.name}/{self.folder.name}/index.html"


@dataclass(frozen=True)
class RunFacts:
    """Everything the report shows. problems: files that could not be read, one line each."""

    root: Path
    recipe: dict[str, Any]
    stages: dict[str, StageFacts]
    results: dict[tuple[str, str, int | None], Evaluation]
    """(model, benchmark, budget) -> result."""
    curves: list[Curve]
    contrasts: list[Curve]
    comparisons: list[ModelDifference]
    """Of these three only what is of the present checkpoints."""
    problems: list[str]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @cached_property
    def models(self) -> list[str]:
        """Models that were or are to be evaluated, in recipe order; others after them."""
        wanted = {m for s in self.stages.values() if s.kind == "evals" for m in _evaluated(s)}
        return ordered(wanted | {model for model, _, _ in self.results}, self.stages)

    @cached_property
    def evaluated(self) -> list[str]:
        """Models with a result of their present checkpoint, in the report's order."""
        found = {model for (model, _, _), result in self.results.items() if not result.stale}
        return [model for model in self.models if model in found]

    def current(self, model: str, benchmark: str, budget: int | None = None) -> Evaluation | None:
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
        return ordered({benchmark for _, benchmark, _ in self.results}, listed)

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


def ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """Names in the order of `first`; others after them, by name.

    >>> ordered({"a", "b", "c"}, ["c", "b"])
    ['c', 'b', 'a']
    """
    rank = {name: place for place, name in enumerate(dict.fromkeys(first))}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def as_they_ran(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of stages, each behind what it needs, else in the order of the recipe: a recipe that extends another
    one may write a stage of the other anew, which stays in its place there.

    >>> as_they_ran({"grpo": {"needs": ["dpo"]}, "evals": {"needs": ["grpo"]}, "dpo": {}})
    ['dpo', 'grpo', 'evals']
    """
    out: list[str] = []

    def place(name: str, below: tuple[str, ...]) -> None:
        if name in out or name not in stages or name in below:
            return
        for need in stages[name].get("needs") or ():
            place(need, (*below, name))
        out.append(name)

    for name in stages:
        place(name, ())
    return out


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
        raise UserError(f"{recipe_path} is not a resolved recipe; run the stages again to write it")
    stages = {
        name: _stage(RunDir(root), name, stages_of[name], problems)
        for name in as_they_ran(stages_of)
    }
    results = _results(root / "evals", stages, problems)
    stale = [result for result in results.values() if result.stale]
    folders = {(result.model, result.folder.name) for result in stale}
    benchmarks = {(result.model, result.result.benchmark) for result in stale}

    def current(name: str, kind: type[T], stale: set[tuple[str, str]]) -> list[T]:
        path = root / "evals" / name
        found: list[Any] = _tried(path, problems, lambda: read_list(path, kind)) or []
        return [x for x in found if not {(m, x.benchmark) for m in (x.model, x.against)} & stale]

    return RunFacts(
        root,
        recipe,
        stages,
        results,
        current(CURVES, Curve, benchmarks),
        current(CONTRASTS, Curve, benchmarks),
        current(_COMPARISONS, ModelDifference, folders),
        problems,
    )


def _stage(run: RunDir, name: str, config: dict[str, Any], problems: list[str]) -> StageFacts:
    folder = run.stage(name)
    try:
        manifest = run.manifest(name)
    except UserError as error:
        problems.append(str(error))
        return StageFacts(name, "failed", config)
    if manifest is None:
        return StageFacts(name, "not started", config)
    metrics = _tried(folder, problems, lambda: read_metrics(folder / "metrics.jsonl")) or []
    status: StageStatus = "unfinished" if manifest.status == "running" else manifest.status
    tail = _log_tail(folder / "log.txt") if status == "failed" else ""
    progress = read_progress(folder / "progress.json")

    result, unread = read_outputs(manifest.kind, manifest.outputs)
    problems += [f"{folder / 'manifest.json'}: {line}; it is left out here" for line in unread]
    declared = kinds().get(manifest.kind)
    measured = "differences" in result.model_fields_set
    if status == "done" and declared and declared.measures and not measured:
        problems.append(
            f"{folder / 'manifest.json'}: has no measure before and after the stage (`differences`); it "
            "is of another version: run the stage again"
        )

    return StageFacts(name, status, config, manifest, metrics, progress, tail, result)


def _tried(path: Path, problems: list[str], read: Callable[[], T]) -> T | None:
    """What `read` reads; None, and a line in `problems`, where it cannot."""
    try:
        return read()
    except (UserError, OSError, ValueError, TypeError) as error:
        line = str(error) if isinstance(error, UserError) else one_line(error)
        problems.append(line if str(path) in line else f"{path}: cannot be read ({line})")
        return None


def _results(
    folder: Path, stages: dict[str, StageFacts], problems: list[str]
) -> dict[tuple[str, str, int | None], Evaluation]:
    out: dict[tuple[str, str, int | None], Evaluation] = {}
    now = {name: s.manifest.completion for name, s in stages.items() if s.manifest}
    # The checkpoint that the evals stage read, for results of versions that did not write down theirs.
    was = {k: v for s in stages.values() if s.kind == "evals" and s.manifest
           for k, v in s.manifest.inputs.items()}  # fmt: skip
    for path in sorted(folder.glob(f"*/*/{RESULT}")):
        found = _tried(path, problems, lambda path=path: _evaluation(path))  # type: ignore[misc]
        if found is not None:
            # Ids are compared, no weights; models that no stage of the run makes are taken as they are.
            made_from = found.result.completion or was.get(found.model)
            stale = found.model in now and made_from not in (None, now[found.model])
            key = found.model, found.result.benchmark, found.result.budget
            out[key] = replace(found, stale=stale)
    return out


def _evaluation(path: Path) -> Evaluation:
    result, questions = read_result(path), questions_of(read_samples(path.parent))
    if not result.metrics:
        raise ValueError(f"{path}: has no metric")
    return Evaluation(path.parents[1].name, result, questions, path.parent)


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


def run_folder(name: str) -> Path:
    """The folder of a run by its name under runs/, or by its path. Raises: UserError."""
    places = (Path("runs") / name, Path(name))
    root = next((place for place in places if (place / "recipe.json").is_file()), None)
    if root is None:
        known = sorted(path.parent.name for path in Path("runs").glob("*/recipe.json"))
        raise UserError(
            f"{name!r} is not a run (no recipe.json); runs here: {', '.join(known) or 'none'}"
        )
    return root
