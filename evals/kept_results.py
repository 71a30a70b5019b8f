"""Results that belong to the run's evals stage: a sweep adds to them, and never replaces them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.config import EvalsConfig
from evals.jobs import Job, asked_of, jobs_of
from evals.models import Model
from evals.store import SampleStore
from workbench.errors import UserError


def must_not_replace(
    stage: EvalsConfig, config: EvalsConfig, models: Sequence[Model], jobs: Sequence[Job], out: Path
) -> None:
    """Raises: UserError where a job's settings differ from those of a result of the evals stage that
    has the same place under `out`. Other numbers of questions or samples are not such a difference.
    """
    own = {job.folder for job in jobs_of(stage, seed=0)}
    owned = {*(stage.models or stage.needs)}
    for model in sorted((m for m in models if m.name in owned), key=lambda m: m.name):
        name = model.name
        for job in [asked_of(model, job) for job in jobs if job.folder in own]:
            found = SampleStore(out / name / job.folder).result()
            differing = list(_differences(found, job, config)) if found else []
            if stage.engine.dtype != config.engine.dtype and found:
                differing.append(f"dtype {stage.engine.dtype}, not {config.engine.dtype}")
            if differing:
                raise UserError(
                    f"{out / name / job.folder} is a result of the recipe's evals stage, made with "
                    f"{', '.join(differing)}; keep this sweep apart with --run OTHER-NAME --models "
                    f"{out.parent / name}, or change the evals stage in the recipe and run it again"
                )


def _differences(found: Mapping[str, Any], job: Job, config: EvalsConfig) -> Iterator[str]:
    sampling = job.sampling
    asked: dict[str, float | str | None] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "grace": sampling.thinking_grace if sampling.thinking_budget is not None else None,
        "told": job.told,
        "seed": sampling.seed,
        "judge": None,
    }
    if job.benchmark.judged and config.judge is not None:
        asked["judge"] = config.judge.endpoint.partition("#")[2]
    there = {**found["sampling"], "seed": found["seed"], "judge": found.get("judge")}
    for key, value in asked.items():
        # A result of an older version does not say everything.
        if key in there and there[key] != value:
            yield f"{key} {there[key]}, not {value}"
