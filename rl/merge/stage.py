"""Stage kind `merge`: two models in, the best point of the line between them out."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.merge.config import MergeConfig
from rl.merge.linear import check_mergeable, interpolate
from workbench import registry
from workbench.errors import UserError
from workbench.panels import PointsPanel
from workbench.records import (
    RESULT,
    Difference,
    Estimate,
    Questions,
    questions_of,
    read_result,
    read_samples,
    to_json,
)
from workbench.rundir import new_folder
from workbench.stage import StageContext
from workbench.statistics import difference_of_models, mean_of_estimates, unpaired_difference

# The evals package stands beside this one and neither imports the other: it is asked by name.
_SWEEP = "evals.stage:sweep"


@dataclass(frozen=True)
class AlphaScore:
    """One benchmark at one alpha. estimate: of the metric. questions: None where the metric is not the
    samples' mean, and so cannot be paired by question."""

    estimate: Estimate
    questions: Questions | None


@dataclass(frozen=True)
class Point:
    """One alpha of the sweep. score: mean of the metric over the benchmarks in `parts`."""

    alpha: float
    score: float
    parts: dict[str, AlphaScore]


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
    context.keep(**summary(points, best, config.metric, config.needs))


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
    parts = dict[str, AlphaScore]()
    for path in sorted(folder.glob(f"*/{RESULT}")):
        metrics = read_result(path).metrics
        if metric not in metrics:
            raise UserError(
                f"merge: metric {metric!r} is not measured; there are: {', '.join(metrics)}"
            )
        parts[path.parent.name] = _part(metrics[metric], path.parent)
    scores = [part.estimate.value for part in parts.values()]
    if not scores or not all(map(math.isfinite, scores)):
        raise UserError(f"merge: no {metric} was measured at alpha {alpha:g} (see {folder})")
    return Point(alpha, sum(scores) / len(scores), parts)


def _part(estimate: Estimate, folder: Path) -> AlphaScore:
    questions = questions_of(read_samples(folder))
    estimate = replace(estimate, n=len(questions))
    values = [float(s.value or 0) for question in questions.values() for s in question.samples]
    if not values or not math.isclose(
        sum(values) / len(values), estimate.value, rel_tol=0.0, abs_tol=1e-9
    ):
        return AlphaScore(estimate, None)
    return AlphaScore(estimate, questions)


def pick(points: Sequence[Point]) -> Point:
    """The best score; among equals the alpha nearest to the middle."""
    return max(points, key=lambda p: (p.score, -abs(p.alpha - 0.5)))


def summary(
    points: Sequence[Point], best: Point, metric: str, names: Sequence[str]
) -> dict[str, Any]:
    """What goes into the manifest: the sweep, and the pick against each end, both in the metric that
    picked and with every benchmark weighing the same, as in the score. names: the models at the ends.
    """
    spreads = [mean_of_estimates([p.estimate for p in point.parts.values()]) for point in points]
    of = dict(zip([point.alpha for point in points], spreads, strict=True))
    differences = []
    for end, name in zip((0.0, 1.0), names, strict=True):
        for point in (p for p in points if p.alpha == end and p is not best):
            parts = [_difference(part, best.parts[key]) for key, part in point.parts.items()]
            change = mean_of_estimates([part.difference for part in parts])
            # Alpha is a note: seeds pick different ones, and are one claim.
            differences.append(
                Difference(
                    of[end], of[best.alpha], change, what=f"{metric} of the picked alpha, from {name}",
                    against=name, note=f"alpha {best.alpha:g}, on the questions that picked it",
                )
            )  # fmt: skip
    panel = PointsPanel(
        f"{metric} by alpha", [*of], spreads, "alpha", note=f"0 is {names[0]}, 1 is {names[1]}"
    )
    return {
        "alpha": best.alpha,
        "metric": metric,
        "models": dict(zip(("alpha 0", "alpha 1"), names, strict=True)),
        "sweep": [_as_row(point) for point in points],
        "differences": to_json(differences),
        "panels": to_json([panel]) if len(points) > 1 else [],
    }


def _as_row(point: Point) -> dict[str, Any]:
    spread = mean_of_estimates([part.estimate for part in point.parts.values()])
    return {"alpha": point.alpha, **to_json(spread)}


def _difference(before: AlphaScore, after: AlphaScore) -> Difference:
    """Paired by question and clustered by problem, where both have values of them."""
    if before.questions is not None and after.questions is not None:
        found = difference_of_models(before.questions, after.questions)
        if found is not None:
            return found
    return unpaired_difference(before.estimate, after.estimate)
