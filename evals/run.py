"""Evaluate one model: every sample of every benchmark in one continuous batch, kept as it ends."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.jobs import Job
from evals.responder import Responder
from evals.samples import Row, Sample, checks_digest, judged, samples_of, take, unasked
from evals.store import SampleStore
from evals.summary import summarise
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


class Stopped(Exception):
    """The caller asked to stop; what had ended is kept."""


def evaluate(
    responder: Responder,
    jobs: Sequence[Job],
    *,
    model: str,
    out: Path,
    data: Path,
    earlier: Iterable[Path] = (),
    watch: Callable[[Progress], bool] = lambda progress: False,
) -> list[dict[str, Any]]:
    """Run all jobs; returns the results, which are also written to out/JOB.

    earlier: more folders with a model's results, to take finished replies from. watch: called as
    samples end; True stops. A sample whose generation or check failed is counted in `failed` and
    left out of the metrics; it is never scored 0, and the next run tries it again.

    Raises: Stopped.
    """
    loop = _Loop(responder, watch)
    folders = list(earlier)
    for job in jobs:
        loop.add(job, out / job.folder, [folder / job.folder for folder in folders], data)
    loop.run()
    results = []
    for job, store, samples in loop.jobs:
        rows = [loop.rows[sample.key, sample.number] for sample in samples]
        store.finish(rows)
        result = summarise(job, rows, model=model, wall_s=time.monotonic() - loop.progress.started)
        write_json(store.folder / "results.json", result)
        results.append(result)
    return results


class _Loop:
    def __init__(self, responder: Responder, watch: Callable[[Progress], bool]) -> None:
        self.responder, self.watch = responder, watch
        self.progress = Progress()
        self.jobs: list[tuple[Job, SampleStore, list[Sample]]] = []
        self.rows: dict[tuple[str, int], Row] = {}
        self._waiting: list[tuple[Sample, SampleStore]] = []

    def add(self, job: Job, folder: Path, others: list[Path], data: Path) -> None:
        """Take a job in; its finished replies are read back, and judged again if checks changed."""
        samples = samples_of(job, self.responder, data)
        store = SampleStore(folder, others)
        found = store.find({sample.key for sample in samples})
        for sample in samples:
            row = found.get(sample.key)
            if row is None:
                continue
            if "turns" not in row and row.get("checked") != checks_digest(sample):
                row = judged(sample, row)
            self.rows[sample.key, sample.number] = {**row, "sample": sample.number}
        store.begin([self.rows[k] for s in samples if (k := (s.key, s.number)) in self.rows])
        # Until all its samples are in, the folder has no result.
        (folder / "results.json").unlink(missing_ok=True)
        self.jobs.append((job, store, samples))
        self.progress.total += len(samples)
        self.progress.reused += len(found)
        for row in unasked([s for s in samples if (s.key, s.number) not in self.rows]):
            self._keep(row, store)
        self._waiting += [(s, store) for s in samples if (s.key, s.number) not in self.rows]
        self.progress.done = len(self.rows)

    def run(self) -> None:
        """Get every missing reply. Samples of several turns go on in waves, all at once each."""
        turn, self.progress.started = 0, time.monotonic()
        with ThreadPoolExecutor(_CHECKERS, thread_name_prefix="check") as checkers:
            while self._waiting:
                wave, self._waiting = self._waiting, []
                self._wave(wave, turn, checkers)
                turn += 1

    def _wave(
        self, wave: list[tuple[Sample, SampleStore]], turn: int, checkers: ThreadPoolExecutor
    ) -> None:
        futures: list[Future[None]] = []
        replies = self.responder.stream([sample.ask(turn) for sample, _ in wave])
        try:
            for place, completion in replies:
                self.progress.tokens += len(completion.token_ids)
                sample, store = wave[place]
                futures.append(checkers.submit(self._take, sample, store, completion))
                if self.watch(self.progress):
                    raise Stopped
        finally:
            close = getattr(replies, "close", None)
            if close is not None:
                close()
            for future in futures:
                future.result()
                self.watch(self.progress)

    def _take(self, sample: Sample, store: SampleStore, completion: Any) -> None:
        row = take(sample, completion, self.responder)
        if row is None:
            self._waiting.append((sample, store))
        else:
            self._keep(row, store)

    def _keep(self, row: Row, store: SampleStore) -> None:
        store.append(row)
        self.rows[row["key"], row["sample"]] = row
        self.progress.done += 1
        self.progress.failed += row["value"] is None
