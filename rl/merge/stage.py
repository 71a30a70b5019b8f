"""Stage kind `merge`: two models in, the best point of the line between them out."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.merge.config import MergeConfig
from rl.merge.linear import check_mergeable, interpolate
from workbench import registry
from workbench.errors import UserError
from workbench.rundir import new_folder, read_json_lines
from workbench.stage import StageContext
from workbench.statistics import (
    Estimate,
    mean_of_estimates,
    paired_interval,
    problem_of,
    problems_of,
    unpaired_interval,
)

# The evals package stands beside this one and neither imports the other: it is asked by name.
_SWEEP = "evals.stage:sweep"


@dataclass(frozen=True)
class Part:
    """One benchmark at one alpha. estimate: of the metric. values: question -> mean value of its
    samples; None where the metric is not the samples' mean, and so cannot be paired by question.
    problems: question -> its problem."""

    estimate: Estimate
    values: dict[str, float] | None
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One alpha of the sweep. score: mean of the metric over the benchmarks in `parts`."""

    alpha: float
    score: float
    parts: dict[str, Part]


def run(context: StageContext) -> None:
    """Check, sweep, pick, write."""
    config: MergeConfig = context.config
    first, second = _two_models(context)
    check_mergeable(first, second)
    ends = [0.0, 1.0] if config.endpoints else []
    points = list[Point]()
    context.note(
        metric=config.metric, models={"alpha 0": config.needs[0], "alpha 1": config.needs[1]}
    )
    context.metrics.truncate_after(0)
    for place, alpha in enumerate(sorted({*config.alphas, *ends})):
        context.progress(step=place, message=f"alpha {alpha:g}")
        if context.should_stop():
            context.stop()
        points.append(_measure(context, config, first, second, alpha))
        context.log_metrics(place + 1, {"merge_score": points[-1].score})
        context.note(sweep=[_as_row(point) for point in points])
    best = pick([p for p in points if p.alpha in config.alphas])
    with new_folder(context.stage_dir / "model") as folder:
        interpolate(first, second, best.alpha, folder)
    context.outputs |= summary(points, best, config.metric)


def _two_models(context: StageContext) -> tuple[Path, Path]:
    found = [f / "model" for f in context.inputs.values() if (f / "model").is_dir()]
    if len(found) != 2 or len(context.inputs) != 2:
        raise UserError(
            f"stage {context.name!r}: a merge needs exactly two stages with models; its needs: "
            f"{', '.join(context.inputs) or 'none'}"
        )
    return found[0], found[1]


def _measure(
    context: StageContext, config: MergeConfig, first: Path, second: Path, alpha: float
) -> Point:
    """Write, evaluate and delete the candidate; a finished evaluation is read, not repeated."""
    name = f"alpha-{alpha:g}"
    results = context.stage_dir / "sweep"
    mark = results / name / ".done"
    if not mark.is_file():
        candidate = context.stage_dir / "candidate"
        shutil.rmtree(candidate, ignore_errors=True)
        shutil.rmtree(results / name, ignore_errors=True)
        interpolate(first, second, alpha, candidate)
        # One seed for all: the candidates answer the same questions with the same draws.
        registry.resolve(_SWEEP)(
            {name: candidate}, config.evals_config(), out=results, seed=context.seed
        )
        mark.touch()
        shutil.rmtree(candidate)
    return read_point(results / name, alpha, config.metric)


def read_point(folder: Path, alpha: float, metric: str) -> Point:
    """A candidate's results: the metric of each benchmark and, where it may be, its questions' values.

    Raises: UserError where the metric is not in the results, or has no number.
    """
    parts = dict[str, Part]()
    for path in sorted(folder.glob("*/results.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        if metric not in found:
            raise UserError(
                f"merge: metric {metric!r} is not measured; there are: {', '.join(found)}"
            )
        parts[path.parent.name] = _part(found[metric], path.with_name("samples.jsonl"))
    scores = [part.estimate.value for part in parts.values()]
    if not scores or not all(map(math.isfinite, scores)):
        raise UserError(f"merge: no {metric} was measured at alpha {alpha:g} (see {folder})")
    return Point(alpha, sum(scores) / len(scores), parts)


def _part(found: dict[str, Any], samples: Path) -> Part:
    values, problems = dict[str, list[float]](), dict[str, str]()
    for row in read_json_lines(samples):
        if isinstance(row.get("value"), int | float):
            values.setdefault(str(row["id"]), []).append(float(row["value"]))
            problems[str(row["id"])] = problem_of(row)
    flat = [value for own in values.values() for value in own]
    value, stderr, low, high = (
        math.nan if x is None else float(x)
        for x in (found["value"], found["stderr"], *found["ci95"])
    )
    estimate = Estimate(value, stderr, low, high, len(values))
    if not flat or not math.isclose(sum(flat) / len(flat), value, rel_tol=0.0, abs_tol=1e-9):
        return Part(estimate, None)
    return Part(estimate, {key: sum(own) / len(own) for key, own in values.items()}, problems)


def pick(points: Sequence[Point]) -> Point:
    """The best score; among equals the alpha nearest to the middle."""
    return max(points, key=lambda p: (p.score, -abs(p.alpha - 0.5)))


def summary(points: Sequence[Point], best: Point, metric: str) -> dict[str, Any]:
    """What goes into the manifest: the sweep, and the pick against each end, both in the metric that
    picked and with every benchmark weighing the same, as in the score."""
    against = {}
    for end in (p for p in points if p.alpha in (0.0, 1.0) and p is not best):
        gain = _mean([_gain(part, best.parts[name]) for name, part in end.parts.items()])
        against[f"alpha {end.alpha:g}"] = gain.as_dict() | {"n": gain.n}
    return {
        "alpha": best.alpha,
        "metric": metric,
        "sweep": [_as_row(p) for p in points],
        "lift_against": against,
    }


def _as_row(point: Point) -> dict[str, Any]:
    spread = _mean([part.estimate for part in point.parts.values()])
    interval = [spread.low, spread.high]
    return {"alpha": point.alpha, "score": point.score, "n": spread.n, "ci95": interval}


def _gain(before: Part, after: Part) -> Estimate:
    """Paired by question and clustered by problem, where both have values of them."""
    if before.values is None or after.values is None:
        return unpaired_interval(before.estimate, after.estimate)
    both = [key for key in before.values if key in after.values]
    old, new = [before.values[k] for k in both], [after.values[k] for k in both]
    return paired_interval(old, new, problems_of(both, before.problems, after.problems))


def _mean(parts: Sequence[Estimate]) -> Estimate:
    # The mean of one would lose the interval's own form (Wilson's).
    return parts[0] if len(parts) == 1 else mean_of_estimates(parts)
