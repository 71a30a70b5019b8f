"""Stage kind `evals`: the sweep over models of the run."""

from pathlib import Path

from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.models import Model
from evals.report import write_pages
from evals.run import Progress, Stopped
from evals.sweep import Results, sample_anew
from evals.sweep import sweep as sweep_models
from workbench.errors import UserError
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Evaluate the stage's models on its benchmarks."""
    config: EvalsConfig = context.config
    models = _models(context, config)
    out = context.run.root / "evals"
    if context.fresh:
        sample_anew(out, [m.name for m in models], jobs_of(config, seed=context.seed))
    place = {model.name: number for number, model in enumerate(models)}

    def watch(model: Model, progress: Progress) -> bool:
        context.progress(
            step=place[model.name] * max(progress.total, 1) + progress.done,
            total=len(models) * max(progress.total, 1),
            message=f"evaluating {model.name}",
            tokens=progress.tokens,
        )
        return context.should_stop()

    try:
        results = sweep_models(models, config, out=out, seed=context.seed, watch=watch)
    except Stopped:
        context.stop()
    write_pages(context.run.root)
    for number, (name, found) in enumerate(results.items(), 1):
        values = [r["metrics"]["accuracy"]["value"] for r in found]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else float("nan")
        context.log_metrics(number, {"accuracy": mean})
        context.outputs.setdefault("accuracy", {})[name] = mean
    failed = sum(r["failed"] for found in results.values() for r in found)
    if failed:
        context.outputs.setdefault("warnings", []).append(
            f"{failed} samples failed and count in no metric; results.json has the reasons"
        )


def sweep(models: dict[str, Path], config: EvalsConfig, *, out: Path, seed: int) -> Results:
    """Evaluate checkpoint folders by name: what other stages ask for, through the registry."""
    return sweep_models(
        [Model(name, str(path)) for name, path in models.items()], config, out=out, seed=seed
    )


def _models(context: StageContext, config: EvalsConfig) -> list[Model]:
    models = []
    for name in config.models or list(context.inputs):
        if name not in context.inputs:
            raise UserError(
                f"evals: model {name!r} is not in `needs` ({', '.join(context.inputs)})"
            )
        folder = context.inputs[name] / "model"
        if folder.is_dir():
            models.append(Model(name, str(folder)))
    if not models:
        raise UserError("evals: no stage in `needs` has made a model")
    return models
