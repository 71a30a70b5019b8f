"""Stage kind `evals`, and the sweep behind scripts/sweep.py: one engine, many models."""

from pathlib import Path

from transformers import AutoTokenizer

from evals.config import EvalsConfig
from evals.registry import benchmark
from evals.run import Job, evaluate
from workbench.engine.actor import start_engine
from workbench.engine.protocol import Sampling
from workbench.errors import UserError
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Evaluate the stage's models on its benchmarks."""
    config: EvalsConfig = context.config
    names = config.models or list(context.inputs)
    models: dict[str, Path] = {}
    for name in names:
        if name not in context.inputs:
            raise UserError(
                f"evals: model {name!r} is not in `needs` ({', '.join(context.inputs)})"
            )
        if (context.inputs[name] / "model").is_dir():
            models[name] = context.inputs[name] / "model"
    sweep(models, config, out=context.run.root / "evals", seed=context.seed, context=context)


def sweep(
    models: dict[str, Path],
    config: EvalsConfig,
    *,
    out: Path,
    seed: int,
    context: StageContext | None = None,
) -> None:
    """Evaluate every model on every benchmark; results go to out/MODEL/BENCHMARK."""
    jobs = [
        Job(benchmark(name).name, thinking == "with", config.limit)
        for thinking in config.thinking
        for name in config.benchmarks
    ]
    sampling = Sampling(
        max_tokens=config.max_tokens,
        n=config.samples,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=seed,
        logprobs=False,
    )
    for place, (name, path) in enumerate(models.items()):
        if context is not None:
            context.progress(step=place, total=len(models), message=f"evaluating {name}")
            if context.should_stop():
                context.stop()
        engine = start_engine(path, config.engine)
        tokenizer = AutoTokenizer.from_pretrained(path)
        results = evaluate(engine, tokenizer, jobs, model=name, sampling=sampling, out=out / name)
        if context is not None:
            mean = sum(r["metrics"]["accuracy"]["value"] for r in results) / len(results)
            context.log_metrics(place + 1, {"accuracy": mean})
            context.outputs.setdefault("accuracy", {})[name] = mean
        engine.close()
