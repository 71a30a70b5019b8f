"""Evaluate one model: every sample of every benchmark in one continuous batch, kept as it ends."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.judge_client import JudgeConfig
from engine.protocol import Completion
from environments.rollout import Replies, waves
from evals.endpoint import EndpointResponder
from evals.jobs import Job, extended
from evals.responder import Responder
from evals.samples import (
    PendingSample,
    Row,
    about,
    checks_digest,
    judged,
    samples_of,
    take,
    unasked,
)
from evals.store import RESULT, SampleStore
from evals.summary import cost_of, summarise
from reward import must_be_checkable
from workbench.errors import StopRequested
from workbench.rundir import write_json

# Checkers wait for worker processes and sandboxes; two at a time keep up with an engine here.
_CHECKERS = 2


@dataclass
class Progress:
    """How far one model is. tokens: generated in this run. reused: replies of earlier runs."""

    total: int = 0
    done: int = 0
    reused: int = 0
    tokens: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)


def evaluate(
    responder: Responder,
    jobs: Sequence[Job],
    *,
    model: str,
    out: Path,
    data: Path,
    earlier: Iterable[Path] = (),
    watch: Callable[[Progress], bool] = lambda progress: False,
    judge: JudgeConfig | None = None,
    completion: str | None = None,
) -> list[dict[str, Any]]:
    """Run all jobs; returns the results, which are also written to out/JOB.

    A result of the same settings that has more questions or samples than a job asks for stays, and
    is returned; one that has fewer is added to, and stands until all is in. completion: which result
    of its stage the model is. earlier: more folders with a model's results, to take finished replies from. watch: called as
    samples end; True stops. A sample whose generation or check failed is counted in `failed` and
    left out of the metrics; it is never scored 0, and the next run tries it again.

    Raises: StopRequested; what had ended is kept.
    """
    loop = _Loop(responder, watch, judge)
    folders = list(earlier)
    ours = [job for job in jobs if job.benchmark.harness is None]
    for job in ours:
        loop.add(job, out / job.folder, [folder / job.folder for folder in folders], data)
    made_from: dict[str, Any] = {"model_digest": responder.identity, "completion": completion}
    results = []
    for job in [job for job in jobs if job.benchmark.harness is not None]:
        result = _harnessed(job, responder, loop, model=model, out=out, data=data, earlier=folders)
        results.append(result | made_from)
        write_json(out / job.folder / RESULT, results[-1])
    loop.run()
    if isinstance(responder, EndpointResponder):
        made_from["served"] = responder.served
    for job, store, samples in loop.jobs:
        rows = [loop.rows[sample.key, sample.number] for sample in samples]
        store.finish(rows)
        result = summarise(job, rows, model=model, wall_s=time.monotonic() - loop.progress.started)
        if isinstance(responder, EndpointResponder) and (price := responder.config.price):
            result["cost"] = cost_of(rows, price)
        if job.benchmark.judged and judge is not None:
            result["judge"] = judge.endpoint.partition("#")[2]
        results.append(result | made_from)
        write_json(store.folder / RESULT, results[-1])
    return results


def _harnessed(
    job: Job,
    responder: Responder,
    loop: "_Loop",
    *,
    model: str,
    out: Path,
    data: Path,
    earlier: Sequence[Path],
) -> dict[str, Any]:
    """A benchmark that lm-eval's harness runs, on the same engine or server."""
    from evals.harness.run import run_harness  # noqa: PLC0415 - few sweeps need it

    def watch(done: int, total: int) -> None:
        # Its requests are not samples, of which a question has one.
        shown = replace(loop.progress, done=done, total=total, reused=0)
        if loop.watch(shown):
            raise StopRequested("stopped as asked; what had ended is kept")

    anew = SampleStore(out / job.folder).anew_since
    folders = [] if anew else [folder / job.folder for folder in earlier]
    return run_harness(
        job, responder, model=model, out=out / job.folder, data=data, earlier=folders, watch=watch
    )


class _Loop:
    def __init__(
        self,
        responder: Responder,
        watch: Callable[[Progress], bool],
        judge: JudgeConfig | None = None,
    ) -> None:
        self.responder, self.watch, self.judge = responder, watch, judge
        self.progress, self._lock = Progress(), threading.Lock()
        self.jobs: list[tuple[Job, SampleStore, list[PendingSample]]] = []
        self.rows: dict[tuple[str, int], Row] = {}
        self._waiting: list[tuple[PendingSample, SampleStore]] = []
        self._unjudged: list[tuple[PendingSample, SampleStore, Row]] = []

    def add(self, job: Job, folder: Path, others: list[Path], data: Path) -> None:
        """Take a job in; its finished replies are read back, and judged again if checks changed."""
        judge = None if self.judge is None else self.judge.model_dump()
        store = SampleStore(folder, others)
        samples = samples_of(job, self.responder, data, judge)
        there, keys = store.keys(), {sample.key for sample in samples}
        if there & keys and not there <= keys:  # of the same settings, and more of them
            job = extended(job, store.result())
            samples = samples_of(job, self.responder, data, judge)
            keys = {sample.key for sample in samples}
        must_be_checkable(sample.question.check for sample in samples)
        found = store.find(keys)
        pending: dict[tuple[str, int], Row] = {}
        for sample in samples:
            row = found.get(sample.key)
            if row is None:
                continue
            # Of a kept reply the question is that of now: a corrected reference stands beside its verdict.
            row = {**row, **about(sample)}
            stale = "turns" not in row and row.get("checked") != checks_digest(sample)
            if stale or row["value"] is None:
                pending[sample.key, sample.number] = row
                self._unjudged.append((sample, store, row))
            else:
                self.rows[sample.key, sample.number] = row
        kept = {**self.rows, **pending}
        rows = [kept[k] for s in samples if (k := (s.key, s.number)) in kept]
        # Until all its samples are in, the folder has no result, or the one that it had.
        store.begin(rows, stands=bool(there) and there <= keys)
        self.jobs.append((job, store, samples))
        self.progress.total += len(samples)
        self.progress.reused += len(found)
        for row in unasked([s for s in samples if (s.key, s.number) not in kept]):
            self._keep(row, store)
        known = {**self.rows, **pending}
        self._waiting += [(s, store) for s in samples if (s.key, s.number) not in known]
        self.progress.done = len(self.rows)

    def run(self) -> None:
        """Get every missing reply. Samples of several turns go on in waves, all at once each."""
        self.progress.started = time.monotonic()
        with ThreadPoolExecutor(self._threads(), thread_name_prefix="check") as checkers:
            self._judge_again(checkers)
            waves(
                self._waiting, self._replies, self._take, checkers,
                settled=lambda: self.watch(self.progress),
            )  # fmt: skip

    def _threads(self) -> int:
        """A judge is waited for, which costs nothing here; other checkers keep the cores busy."""
        asked = any(job.benchmark.judged for job, _, _ in self.jobs)
        return max(_CHECKERS, self.judge.parallel if self.judge and asked else 0)

    def _judge_again(self, checkers: ThreadPoolExecutor) -> None:
        """Old replies whose checks have changed, or failed."""
        futures = [checkers.submit(self._rejudge, *item) for item in self._unjudged]
        for future in futures:
            future.result()
            if self.watch(self.progress):
                checkers.shutdown(cancel_futures=True)
                raise StopRequested("stopped as asked; what had ended is kept")

    def _rejudge(self, sample: PendingSample, store: SampleStore, row: Row) -> None:
        self._keep(judged(sample, row), store)

    def _replies(self, wave: Sequence[tuple[PendingSample, SampleStore]], turn: int) -> Replies:
        replies = self.responder.stream([sample.ask(turn) for sample, _ in wave])
        try:
            for place, completion in replies:
                self.progress.tokens += len(completion.token_ids)
                yield place, completion
                if self.watch(self.progress):
                    raise StopRequested("stopped as asked; what had ended is kept")
        finally:
            close = getattr(replies, "close", None)
            if close is not None:
                close()

    def _take(self, item: tuple[PendingSample, SampleStore], completion: Completion) -> bool:
        """Whether the sample goes on with another turn."""
        sample, store = item
        row = take(sample, completion, self.responder)
        if row is not None:
            self._keep(row, store)
        return row is None

    def _keep(self, row: Row, store: SampleStore) -> None:
        store.append(row)
        with self._lock:
            self.rows[row["key"], row["sample"]] = row
            self.progress.done += 1
            self.progress.failed += row["value"] is None
