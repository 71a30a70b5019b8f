"""Models x benchmarks x budgets: one engine start a model. The stage and the script share this."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from budget.engine import with_budgets
from engine.config import EngineConfig
from engine.protocol import Engine
from evals.budgets import CONTRASTS, Pair, budget_contrasts, budget_curves, unique
from evals.budgets import FILE as BUDGET_FILE
from evals.config import EvalsConfig
from evals.endpoint import EndpointResponder
from evals.jobs import Job, jobs_of
from evals.models import Model
from evals.responder import LocalResponder, Responder, checkpoint_digest, context_of
from evals.run import Progress, evaluate
from evals.statistics import Comparison, by_question, compare, holm
from evals.store import SampleStore
from reward.judging import client_of
from workbench.provenance import digest
from workbench.rundir import (
    UNFINISHED,
    RunDir,
    new_folder,
    read_json,
    read_json_lines,
    write_json,
)
from workbench.statistics import problem_of, problems_of

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
    earlier sweeps is worked out again from the present results. Raises: Stopped where `watch`
    returned True.
    """
    jobs = jobs_of(config, seed=seed)
    if config.judge is not None and any(job.benchmark.judged for job in jobs):
        client_of(config.judge.model_dump()).must_answer()
    make = respond or responder_of
    results: Results = {}
    for model in models:
        responder = make(model, config, jobs)
        try:
            if isinstance(responder, EndpointResponder):
                _set_others_aside(out, model.name, jobs, responder.identity)
            results[model.name] = evaluate(
                responder,
                jobs,
                model=model.name,
                out=out / model.name,
                data=Path(config.data),
                earlier=_earlier(out, model.name),
                judge=config.judge,
                completion=_completion(model),
                watch=lambda progress, model=model: watch(model, progress),  # type: ignore[misc]
            )
        finally:
            responder.close()
    names = [model.name for model in models]
    write_json(out / BUDGET_FILE, budget_curves(out))
    write_json(out / CONTRASTS, budget_contrasts(out, names, _pairs(out / CONTRASTS)))
    pairs = [
        Pair(job.folder, before, after) for job in jobs for before, after in combinations(names, 2)
    ]
    write_json(out / COMPARISONS, comparisons(out, [*_pairs(out / COMPARISONS), *pairs]))
    return results


def sample_anew(out: Path, names: Sequence[str], jobs: Sequence[Job]) -> None:
    """Set the results of these models and jobs aside; replies made until now are taken over no more."""
    for folder in [out / name / job.folder for name in names for job in jobs]:
        RunDir(out.parent).set_aside(str(folder.relative_to(out.parent)))
        SampleStore(folder).sample_anew()


def _set_others_aside(out: Path, name: str, jobs: Sequence[Job], identity: str) -> None:
    """Keep a copy of the results under this name of what is served there no more. The replies also stay
    where they are found again, should it come back."""
    for folder in [out / name / job.folder for job in jobs]:
        found = SampleStore(folder).result()
        if found and found.get("model_digest") != identity:
            aside = out.parent / ".replaced" / folder.relative_to(out.parent)
            aside.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(aside) as half:
                shutil.copytree(folder, half, dirs_exist_ok=True)


def responder_of(model: Model, config: EvalsConfig, jobs: Sequence[Job]) -> Responder:
    """A model's responder; an engine is started only when a reply is missing."""
    if model.served:
        return EndpointResponder(model.place)
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    from engine.actor import start_engine  # noqa: PLC0415 - heavy

    folder = Path(model.place)
    context = context_of(folder)
    budgets = any(job.sampling.thinking_budget is not None for job in jobs)

    def start(longest: int) -> Engine:
        return start_engine(folder, _engine_config(config.engine, longest, context, budgets))

    return LocalResponder(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        identity=digest([checkpoint_digest(folder), config.engine.dtype]),
        start=start,
        context=context,
        shortest=config.engine.max_model_len,
    )


def must_answer(model: Model) -> None:
    """Raises: UserError where a served model cannot be reached."""
    responder = EndpointResponder(model.place)
    try:
        responder.must_answer()
    finally:
        responder.close()


def _engine_config(config: EngineConfig, longest: int, context: int, budgets: bool) -> EngineConfig:
    # In steps, so that a few tokens more do not make a warm engine useless.
    wanted = min(max(config.max_model_len, -(-longest // 256) * 256), context)
    made = config.model_copy(update={"max_model_len": wanted})
    batched = made.max_num_batched_tokens
    if batched is not None and batched < wanted:
        made = made.model_copy(update={"max_num_batched_tokens": wanted})
    return with_budgets(made) if budgets else made


def _earlier(out: Path, name: str) -> list[Path]:
    """Where else replies of this model may lie: results that a rerun set aside, or another name."""
    aside = [out.parent / ".replaced" / place / out.name for place in ("", UNFINISHED)]
    folders = [
        *(folder / name for folder in aside),
        *(p for p in out.glob("*") if p.is_dir() and p.name != name),
    ]
    return [folder for folder in folders if folder.is_dir()]


def _completion(model: Model) -> str | None:
    """Which result of its stage a checkpoint is; None where no stage of ours made it."""
    path = Path(model.place).parent / "manifest.json"
    if model.served or not path.is_file():
        return None
    found = read_json(path)
    return str(found["completion"]) if found.get("completion") else None


def _pairs(path: Path) -> list[Pair]:
    """The pairs of models that an earlier sweep has written to a file; none where it has not."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Pair(row["benchmark"], row["before"], row["after"]) for row in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def comparisons(out: Path, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The pairs that have results, p-values also adjusted for their number (Holm). The benchmark of a
    pair is a job's folder."""
    scored = cache(lambda model, job: scored_questions(out / model / job))
    found: list[tuple[Pair, Comparison]] = []
    for pair in unique(pairs):
        before, asked = scored(pair.before, pair.benchmark)
        after, anew = scored(pair.after, pair.benchmark)
        problems = dict(zip(before, problems_of(before, asked, anew), strict=True))
        comparison = compare(before, after, problems)
        if comparison is not None:
            found.append((pair, comparison))
    adjusted = holm([c.p for _, c in found])
    rows = [
        {**pair._asdict(), **c.as_dict(), "p_holm": p}
        for (pair, c), p in zip(found, adjusted, strict=True)
    ]
    cleaned: list[dict[str, Any]] = json.loads(json.dumps(rows), parse_constant=lambda _: None)
    return cleaned


def scored_questions(folder: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Question id -> mean value of its scored samples, and -> its problem."""
    rows = [
        row for row in read_json_lines(folder / "samples.jsonl") if row.get("value") is not None
    ]
    groups = by_question(rows)
    values = {q: sum(float(r["value"]) for r in own) / len(own) for q, own in groups.items()}
    return values, {q: problem_of(own[0]) for q, own in groups.items()}
