"""Stage kind `evals`: the sweep over models of the run."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.models import Model
from evals.run import Progress
from evals.sweep import Results, must_answer, sample_anew
from evals.sweep import sweep as sweep_models
from workbench.errors import StopRequested, UserError
from workbench.records import SAMPLES
from workbench.rundir import read_json_lines
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Evaluate the stage's models on its benchmarks.

    Raises: UserError where more than `max_failed_share` of all samples have no verdict.
    """
    config: EvalsConfig = context.config
    models = _models(context, config)
    out = context.run.root / "evals"
    if context.fresh:
        sample_anew(out, [m.name for m in models], jobs_of(config, seed=context.seed))
    for model in models:
        if model.served:
            must_answer(model)
    done: dict[str, tuple[int, int]] = {}  # served models are asked side by side

    def watch(model: Model, progress: Progress) -> bool:
        done[model.name] = (progress.done, progress.total)
        context.progress(
            step=sum(made for made, _ in done.values()),
            total=sum(total for _, total in done.values())
            + (len(models) - len(done)) * max(progress.total, 1),
            message=f"evaluating {model.name}",
            tokens=progress.tokens,
        )
        return context.should_stop()

    try:
        results = sweep_models(models, config, out=out, seed=context.seed, watch=watch)
    except StopRequested:
        context.stop()
    means: dict[str, float] = dict(context.outputs.get("accuracy", {}))
    for number, (name, found) in enumerate(results.items(), 1):
        mean = _mean([r["metrics"]["accuracy"]["value"] for r in found])
        context.log_metrics(number, {"accuracy": mean})
        means[name] = mean
        context.keep(accuracy=means)
    _account_for_failed(context, config, results, out)


def _mean(values: Sequence[float | None]) -> float:
    """NaN where a benchmark is missing: without the hardest one a model would look better than it is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else math.nan


def _account_for_failed(
    context: StageContext, config: EvalsConfig, results: Results, out: Path
) -> None:
    """Warn of samples that failed. Raises: UserError where they are too many."""
    failed = sum(r["failed"] for found in results.values() for r in found)
    if not failed:
        return
    reasons = Counter[str]()
    for found in results.values():
        for result in found:
            reasons.update(result["failures"])
    often = max(reasons, key=reasons.__getitem__, default="not known")
    context.warn(f"{failed} samples failed and count in no metric; results.json has the reasons")
    jobs = jobs_of(config, seed=context.seed)
    folders = [out / name / job.folder for name in results for job in jobs]
    asked = sum(1 for folder in folders for _ in read_json_lines(folder / SAMPLES))
    if failed > config.max_failed_share * asked:
        raise UserError(
            f"{failed:,} of {asked:,} samples failed (max_failed_share is {config.max_failed_share:.0%}; "
            f"most often: {often}); the others are kept, and the same command tries these again"
        )


def sweep(models: dict[str, Path], config: EvalsConfig, *, out: Path, seed: int) -> Results:
    """Evaluate checkpoint folders by name: what other stages ask for, through the registry."""
    return sweep_models(
        [Model(name, str(path)) for name, path in models.items()], config, out=out, seed=seed
    )


def _models(context: StageContext, config: EvalsConfig) -> list[Model]:
    models, served = [], context.recipe.models
    for name in config.models or list(context.inputs):
        if name not in context.inputs and name in served:
            models.append(Model.of(name, served[name]))
            continue
        if name not in context.inputs:
            raise UserError(
                f"evals: model {name!r} is neither in `needs` ({', '.join(context.inputs)}) nor in "
                f"the recipe's `models` ({', '.join(served) or 'none'})"
            )
        folder = context.inputs[name] / "model"
        if folder.is_dir():
            models.append(Model(name, str(folder)))
    if not models:
        raise UserError("evals: no stage in `needs` has made a model")
    return models
