"""Evaluate one model on benchmarks: sample, check, write results.json and samples.jsonl."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.registry import QUESTION_SEED, benchmark
from reward import CheckItem, check_all
from workbench.chat import parse, prompt_ids, stop_ids
from workbench.conversation import Conversation
from workbench.engine.protocol import Completion, Engine, Sampling
from workbench.provenance import versions
from workbench.rundir import write_json
from workbench.statistics import mean_interval


@dataclass(frozen=True)
class Job:
    """One results.json: a benchmark with reasoning on or off."""

    benchmark: str
    thinking: bool
    limit: int

    @property
    def folder(self) -> str:
        """Its folder's name; reasoning off is budget 0."""
        return self.benchmark if self.thinking else f"{self.benchmark}@0"


def evaluate(
    engine: Engine,
    tokenizer: Any,
    jobs: Sequence[Job],
    *,
    model: str,
    sampling: Sampling,
    out: Path,
) -> list[dict[str, Any]]:
    """Run all jobs through one batch of the engine; returns the results, also written to `out`.

    A sample whose generation or check failed is counted in `failed` and left out of the metrics; it
    is never scored 0.
    """
    started = time.monotonic()
    asked: list[tuple[Job, Conversation]] = []
    for job in jobs:
        for question in benchmark(job.benchmark).questions(job.limit, QUESTION_SEED):
            asked.append((job, replace(question, thinking=job.thinking)))
    prompts = [
        prompt_ids(q.prompt, tools=q.tools, thinking=q.thinking, tokenizer=tokenizer)
        for _, q in asked
    ]
    replies = engine.generate(prompts, replace(sampling, stop_token_ids=stop_ids(tokenizer)))
    rows = [
        (job, _row(question, number, completion, tokenizer), question)
        for (job, question), group in zip(asked, replies, strict=True)
        for number, completion in enumerate(group)
    ]
    _score([(row, question) for _, row, question in rows])
    results = []
    for job in jobs:
        own = [row for j, row, _ in rows if j is job]
        result = _result(job, own, model=model, sampling=sampling)
        result["wall_s"] = round(time.monotonic() - started, 2)
        folder = out / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own)
        (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
        write_json(folder / "results.json", result)
        results.append(result)
    return results


def _row(question: Conversation, number: int, done: Completion, tokenizer: Any) -> dict[str, Any]:
    reply = parse(done.text, thinking=question.thinking)
    thinking_tokens = len(tokenizer.encode(reply.thinking, add_special_tokens=False))
    return {
        "id": question.id,
        "sample": number,
        "domain": question.domain,
        "prompt": question.prompt,
        "reply": done.text,
        "thinking": reply.thinking,
        "answer": reply.answer,
        "tool_calls": reply.tool_calls,
        "well_formed": reply.well_formed and done.finish_reason == "stop",
        "finish_reason": done.finish_reason,
        "tokens": {
            "thinking": thinking_tokens,
            "answer": max(len(done.token_ids) - thinking_tokens, 0),
        },
        "value": None,
        "status": done.error or "error" if done.finish_reason == "error" else "unscored",
        "reference": question.check.reference if question.check else None,
    }


def _score(rows: Sequence[tuple[dict[str, Any], Conversation]]) -> None:
    todo = [(row, q) for row, q in rows if row["status"] == "unscored" and q.check is not None]
    items = [
        CheckItem(
            q.check.kind,
            row["reply"],
            q.check.reference,
            {**q.check.options, **({"thinking_opened": True} if q.thinking else {})},
        )
        for row, q in todo
        if q.check is not None
    ]
    for (row, _), verdict in zip(todo, check_all(items), strict=True):
        row["value"], row["status"], row["why"] = verdict.value, verdict.status, verdict.parts


def _result(
    job: Job, rows: Sequence[dict[str, Any]], *, model: str, sampling: Sampling
) -> dict[str, Any]:
    scored = [row for row in rows if row["value"] is not None]
    values = [float(row["value"]) for row in scored]
    accuracy = mean_interval(values, [row["id"] for row in scored])
    count = max(len(rows), 1)
    return {
        "model": model,
        "benchmark": job.benchmark,
        "budget": None if job.thinking else 0,
        "n": len({row["id"] for row in rows}),
        "num_samples": sampling.n,
        "metrics": {"accuracy": accuracy.as_dict()},
        "tokens": {
            "thinking_mean": sum(row["tokens"]["thinking"] for row in rows) / count,
            "answer_mean": sum(row["tokens"]["answer"] for row in rows) / count,
        },
        "well_formed_rate": sum(row["well_formed"] for row in rows) / count,
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "failed": len(rows) - len(scored),
        "checker_versions": versions(),
        "seed": sampling.seed,
        "wall_s": 0.0,
    }
