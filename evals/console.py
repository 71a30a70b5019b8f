"""What a sweep says on the terminal: progress while it runs, a table at the end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from evals.jobs import Job
from evals.models import Model
from evals.run import Progress

_EVERY_S = 5.0


class Teller:
    """Prints a line every few seconds: samples done, tokens a second, time left."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._last = out, dict[str, float]()
        self.stop = False

    def __call__(self, model: Model, progress: Progress) -> bool:
        """A sweep's `watch`; returns whether to stop."""
        now = time.monotonic()
        if now - self._last.get(model.name, 0.0) >= _EVERY_S and progress.total:
            self._last[model.name] = now
            print(f"  {model.name}: {_line(progress, now)}", file=self._out, flush=True)
        return self.stop


def _line(progress: Progress, now: float) -> str:
    spent = max(now - progress.started, 1e-9)
    fresh = progress.done - progress.reused
    left = (progress.total - progress.done) / fresh * spent if fresh > 0 else None
    parts = [
        f"{progress.done:,}/{progress.total:,} samples",
        f"{progress.tokens / spent:,.0f} tok/s",
        f"{left:,.0f} s left" if left is not None else "starting",
    ]
    if progress.reused:
        parts.append(f"{progress.reused:,} from earlier runs")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    return ", ".join(parts)


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line a result: the headline metric with its interval, and what went wrong."""
    head = ("model", "benchmark", "metric", "value", "95% interval", "n", "cut", "failed")
    priced = any(result.get("cost") for found in results.values() for result in found)
    rows: list[tuple[str, ...]] = [(*head, "cost") if priced else head]
    for model, found in results.items():
        for result in found:
            rows.append((*_row(model, result), *([cost(result)] if priced else [])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def cost(result: Mapping[str, Any]) -> str:
    """What the replies behind a result cost, with the currency; "-" where nothing tells.

    >>> cost({"cost": {"sum": 0.01234, "currency": "USD"}})
    '0.0123 USD'
    """
    found = result.get("cost")
    return "-" if not found or found["sum"] is None else f"{found['sum']:.3g} {found['currency']}"


def _row(model: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    name = result["headline"]
    metric = result["metrics"][name]
    low, high = metric["ci95"]
    known = metric["value"] is not None
    return (
        model,
        _name(result),
        name,
        f"{100 * metric['value']:.1f}" if known else "-",
        f"{100 * low:.1f} to {100 * high:.1f}" if known and low is not None else "-",
        str(result["n"]) + (f" x {result['num_samples']}" if result["num_samples"] > 1 else ""),
        str(result["truncated"]),
        str(result["failed"]),
    )


def failure_lines(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The commonest reason of each result with failed samples."""
    lines = []
    for model, found in results.items():
        for result in found:
            if result["failed"]:
                reason, count = max(result["failures"].items(), key=lambda item: item[1])
                lines.append(
                    f"{model} {_name(result)}: {result['failed']} samples failed "
                    f"({count} x {reason}); they count in no metric, and a rerun tries them again"
                )
    return lines


def kept_lines(
    results: Mapping[str, Sequence[Mapping[str, Any]]], jobs: Sequence[Job]
) -> list[str]:
    """A line for each model whose results have more than was asked for, and so stay as they are."""
    asked = {(job.benchmark.name, job.budget): job for job in jobs}
    lines = []
    for model, found in results.items():
        fuller = [r for r in found if _is_fuller(r, asked[r["benchmark"], r["budget"]])]
        if fuller:
            names = ", ".join(_name(r) for r in fuller)
            lines.append(
                f"{model}: {names}: more questions or samples than asked for are there already; they "
                "stay, and the table is of all of them"
            )
    return lines


def dated_lines(results: Mapping[str, Sequence[Mapping[str, Any]]], began: str) -> list[str]:
    """A line for each result with replies that are older than this sweep, and for each served model
    that nothing but its name tells from another."""
    lines = []
    for model, found in results.items():
        for result in found:
            made = result.get("sampled_at")
            if made and made["first"] < began:
                lines.append(
                    f"{model} {_name(result)}: replies made from {made['first']} to {made['last']}; "
                    "--fresh samples anew"
                )
        served = next((r["served"] for r in found if r.get("served")), None)
        if served and not (served["entry"] or served["probe_replies"]):
            lines.append(f"{model}: known by {served['known_by']}")
        names = (served or {}).get("answered_by")
        if names:
            shown = ", ".join(f"{name or 'no name'} {count:,}" for name, count in names.items())
            lines.append(
                f"{model}: more than one model answered ({shown}); the result is of all of them"
            )
    return lines


def _is_fuller(result: Mapping[str, Any], job: Job) -> bool:
    limit = result["sampling"]["limit"]
    return bool(limit != job.limit or result["num_samples"] != job.sampling.n)


def _name(result: Mapping[str, Any]) -> str:
    budget = result["budget"]
    return str(result["benchmark"]) + ("" if budget is None else f"@{budget}")
