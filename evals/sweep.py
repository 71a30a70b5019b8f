"""Models x benchmarks x budgets: one engine start a model. The stage and the script share this."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import combinations
from pathlib import Path
from threading import Event
from typing import Any

from budget.curves import CONTRASTS, CURVES, ModelPair, budget_contrasts, budget_curves, unique
from budget.engine import with_budgets
from engine.config import EngineConfig
from engine.protocol import Engine
from evals.config import EvalsConfig
from evals.endpoint import EndpointResponder
from evals.jobs import Job, asked_of, jobs_of
from evals.models import Model
from evals.responder import LocalResponder, Responder, checkpoint_digest, context_of
from evals.run import Progress, evaluate
from evals.statistics import compare, holm
from evals.store import SampleStore
from evals.summary import sampling_of
from reward.judging import client_of
from workbench.errors import StopRequested
from workbench.hub import fetched
from workbench.provenance import digest
from workbench.records import Difference, ModelDifference, questions_of, read_samples, to_json
from workbench.rundir import TAKEN, UNFINISHED, RunDir, new_folder, read_json, write_json

Watch = Callable[[Model, Progress], bool]
Results = dict[str, list[dict[str, Any]]]
COMPARISONS = "comparisons.json"


def sweep(
    models: Sequence[Model],
    config: EvalsConfig,
    *,
    out: Path,
    seed: int,
    watch: Watch = lambda model, progress: False,
    respond: Callable[[Model, EvalsConfig, Sequence[Job]], Responder] | None = None,
) -> Results:
    """Evaluate every model on every benchmark; results go to out/MODEL/BENCHMARK[@BUDGET].

    Finished replies of earlier runs are taken over. Writes out/comparisons.json, each pair of
    models on each job, out/budget_curves.json and out/budget_contrasts.json; what these hold of
    earlier sweeps is worked out again from the present results. Raises: StopRequested where `watch`
    returned True.
    """
    jobs = jobs_of(config, seed=seed)
    if config.judge is not None and any(job.benchmark.judged for job in jobs):
        client_of(config.judge.model_dump()).must_answer()
    make = respond or responder_of
    failed = Event()

    def one(model: Model) -> list[dict[str, Any]]:
        own = [asked_of(model, job) for job in jobs]
        responder = make(model, config, own)
        try:
            _set_others_aside(out, model.name, own, responder)
            return evaluate(
                responder,
                own,
                model=model.name,
                out=out / model.name,
                data=Path(config.data),
                earlier=_earlier(out, model.name),
                judge=config.judge,
                completion=_completion(model),
                watch=lambda progress: failed.is_set() or watch(model, progress),
            )
        except BaseException:
            failed.set()
            raise
        finally:
            responder.close()

    results: Results = {}
    # What serves itself is only waited for: all such models at once, beside our own engine.
    served = [model for model in models if model.served]
    with ThreadPoolExecutor(max(len(served), 1), thread_name_prefix="model") as others:
        asked = {model.name: others.submit(one, model) for model in served}
        for model in models:
            if not model.served:
                results[model.name] = one(model)
    _raise_first(asked.values())
    results = {
        model.name: asked[model.name].result() if model.served else results[model.name]
        for model in models
    }
    names = [model.name for model in models]
    write_json(out / CURVES, to_json(budget_curves(out)))
    write_json(out / CONTRASTS, to_json(budget_contrasts(out, names, _pairs(out / CONTRASTS))))
    pairs = [
        ModelPair(job.folder, before, after)
        for job in jobs
        for before, after in combinations(names, 2)
    ]
    write_json(out / COMPARISONS, to_json(comparisons(out, [*_pairs(out / COMPARISONS), *pairs])))
    return results


def _raise_first(futures: Iterable[Future[Any]]) -> None:
    """Raise what went wrong first: the others were told to stop by it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, StopRequested))
    if errors:
        raise errors[0]


def sample_anew(out: Path, names: Sequence[str], jobs: Sequence[Job]) -> None:
    """Set the results of these models and jobs aside; replies made until now are taken over no more."""
    for folder in [out / name / job.folder for name in names for job in jobs]:
        RunDir(out.parent).set_aside(str(folder.relative_to(out.parent)))
        SampleStore(folder).sample_anew()


def _set_others_aside(out: Path, name: str, jobs: Sequence[Job], responder: Responder) -> None:
    """Keep a copy of the results under this name that are of other weights or settings, and end now. The
    replies also stay where they are found again, should those come back."""
    for job in jobs:
        folder = out / name / job.folder
        found = SampleStore(folder).result()
        if found and not _is_of(found, job, responder.identity):
            aside = out.parent / ".replaced" / folder.relative_to(out.parent)
            aside.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(aside) as half:
                shutil.copytree(folder, half, dirs_exist_ok=True)


def _is_of(found: Mapping[str, Any], job: Job, identity: str) -> bool:
    """Whether a result is of these weights and settings; of how many questions does not count."""
    same = {**found["sampling"], "limit": job.limit} == sampling_of(job)
    return same and found.get("seed") == job.sampling.seed and found.get("model_digest") == identity


def responder_of(model: Model, config: EvalsConfig, jobs: Sequence[Job]) -> Responder:
    """A model's responder; an engine is started only when a reply is missing."""
    if model.served:
        return EndpointResponder(model.place, model.how)
    from engine.remote import start_engine  # noqa: PLC0415 - heavy
    from model.checkpoint import check_files  # noqa: PLC0415 - heavy
    from model.tokenizer import read_tokenizer  # noqa: PLC0415 - heavy

    folder = Path(model.place)
    if not folder.is_dir() and model.place.count("/") == 1:
        folder = fetched(model.place)
    check_files(folder)
    context = context_of(folder)
    budgets = any(job.sampling.thinking_budget is not None for job in jobs)

    def start(longest: int) -> Engine:
        return start_engine(folder, _engine_config(config.engine, longest, context, budgets))

    return LocalResponder(
        tokenizer=read_tokenizer(folder),
        identity=digest([checkpoint_digest(folder), config.engine.dtype]),
        start=start,
        context=context,
        shortest=config.engine.max_model_len,
    )


def must_answer(model: Model) -> None:
    """Raises: UserError where a served model cannot be reached."""
    responder = EndpointResponder(model.place, model.how)
    try:
        responder.must_answer()
    finally:
        responder.close()


def _engine_config(config: EngineConfig, longest: int, context: int, budgets: bool) -> EngineConfig:
    made = config.grown(longest, context=context)
    return with_budgets(made) if budgets else made


def _earlier(out: Path, name: str) -> list[Path]:
    """Where else replies of this model may lie: results that a rerun set aside, another name, and what was
    taken over from other runs."""
    aside = [out.parent / ".replaced" / place / out.name for place in ("", UNFINISHED)]
    folders = [
        *(folder / name for folder in aside),
        *(p for p in out.glob("*") if p.is_dir() and p.name != name),
        *sorted((out.parent / TAKEN).glob("*/*")),
    ]
    return [folder for folder in folders if folder.is_dir()]


def _completion(model: Model) -> str | None:
    """Which result of its stage a checkpoint is; None where no stage of ours made it."""
    path = Path(model.place).parent / "manifest.json"
    if model.served or not path.is_file():
        return None
    found = read_json(path)
    return str(found["completion"]) if found.get("completion") else None


def _pairs(path: Path) -> list[ModelPair]:
    """The pairs of models that an earlier sweep has written to a file; none where it has not."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [ModelPair(row["benchmark"], row["against"], row["model"]) for row in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def comparisons(out: Path, pairs: Sequence[ModelPair]) -> list[ModelDifference]:
    """The pairs that have results, p-values also adjusted for their number (Holm). The benchmark of a
    pair is a job's folder."""
    scored = cache(lambda model, job: questions_of(read_samples(out / model / job)))
    found: list[tuple[ModelPair, Difference]] = []
    for pair in unique(pairs):
        before, after = (scored(model, pair.benchmark) for model in (pair.against, pair.model))
        difference = compare(before, after, pair.against)
        if difference is not None:
            found.append((pair, difference))
    adjusted = holm([difference.p for _, difference in found])
    return [
        ModelDifference(**vars(difference), benchmark=pair.benchmark, model=pair.model, p_holm=p)
        for (pair, difference), p in zip(found, adjusted, strict=True)
    ]
