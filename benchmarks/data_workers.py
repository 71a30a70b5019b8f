"""How much faster two workers make shards than one, what two processes could gain at most, and where the rest is.

    PYTHONPATH=. python benchmarks/data_workers.py data/pages.warc.gz [COPIES]

The mathematics funnel's steps on a WARC, COPIES times over (3), in shards of 5 pages, in interleaved rounds of four
arms: one worker and two under Ray on two CPUs; one process and two without Ray, the latter with every second shard
each, started and opened before the clock runs. The ratio of the last two is the ceiling: what this machine's two CPUs
give to work that shares nothing. Under Ray the workers' own times are summed: until the first shard begins, between
shards, and idle at the end. The machine must be quiet. Five minutes on two quiet cores.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from data_mix.curate.config import CurateConfig, columns_after
from data_mix.curate.inputs import open_input
from data_mix.scatter import ShardJob, Unit, make_shard, scatter
from workbench.cluster import connect, disconnect
from workbench.recipe import ClusterSection

ROUNDS, ROWS, COPIES = 3, 5, 3
STEPS = [
    *({"type": "equations", "least": 1}, {"type": "html", "by": "lynx"}),
    *({"type": "fix_text"}, {"type": "language", "keep": ["en"]}),
]


class Span(NamedTuple):
    """When a worker made a shard, in seconds of the clock."""

    worker: int
    begun: float
    ended: float


def job_of(warc: str, folder: Path, cpus: int) -> tuple[ShardJob, list[Unit]]:
    """The funnel, one worker a `cpus` CPUs, and its units."""
    raw = {"kind": "curate", "input": {"type": "warc", "path": warc}, "steps": STEPS}
    config = CurateConfig.model_validate({**raw, "workers": {"cpus": cpus}})
    opened = open_input(config.input)
    columns = columns_after(config, opened.columns)
    job = ShardJob("data_mix.curate.worker:open_maker", config, folder, columns)
    return job, opened.units(ROWS)


def timed(job: ShardJob, unit: Unit) -> Span:
    """Make a shard."""
    begun = time.time()
    make_shard(job, unit)
    return Span(os.getpid(), begun, time.time())


def spread(units: Sequence[Unit], copies: int) -> list[Unit]:
    """The units several times over, as shards of their own."""
    many = [unit for _ in range(copies) for unit in units]
    return [replace(unit, number=number) for number, unit in enumerate(many)]


def by_ray(warc: str, cpus: int, copies: int) -> tuple[float, dict[str, float], dict[str, bytes]]:
    """(Seconds, the workers' seconds by what they did, the shards)."""
    with tempfile.TemporaryDirectory() as place:
        job, units = job_of(warc, Path(place), cpus)
        began = time.time()
        spans = list(scatter(job, spread(units, copies), timed))
        ended = time.time()
        return ended - began, shares(spans, began, ended, 2 // cpus), shards_of(Path(place))


def shares(spans: Sequence[Span], began: float, ended: float, workers: int) -> dict[str, float]:
    """Seconds of all workers: at work, before their first shard, between two, after their last."""
    out = dict.fromkeys(("work", "before", "between", "after"), 0.0)
    by_worker = {span.worker: sorted(s for s in spans if s.worker == span.worker) for span in spans}
    for own in by_worker.values():
        out["work"] += sum(span.ended - span.begun for span in own)
        out["before"] += own[0].begun - began
        out["between"] += sum(b.begun - a.ended for a, b in pairwise(own))
        out["after"] += ended - own[-1].ended
    out["before"] += (workers - len(by_worker)) * (ended - began)  # one that never came
    return out


def alone(warc: str, processes: int, copies: int) -> tuple[float, dict[str, bytes]]:
    """(Seconds until the last of these processes is done, the shards)."""
    with tempfile.TemporaryDirectory() as place:
        line = [sys.executable, __file__, "--part", warc, place, str(processes), str(copies)]
        started = [
            subprocess.Popen([*line, str(part)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for part in range(processes)
        ]
        for one in started:
            assert one.stdout is not None and one.stdout.readline() == b"ready\n"
        began = time.time()
        for one in started:
            assert one.stdin is not None
            one.stdin.write(b"\n")
            one.stdin.close()
        assert not any([one.wait() for one in started]), "a process failed"
        return time.time() - began, shards_of(Path(place))


def part(warc: str, place: str, processes: str, copies: str, number: str) -> None:
    """One of the processes that share nothing: every so many shards, from the word go on."""
    job, units = job_of(warc, Path(place), 1)
    many = spread(units, int(copies))[int(number) :: int(processes)]
    make_shard(job, many[0])  # all is opened and imported
    print("ready", flush=True)
    sys.stdin.readline()
    for unit in many:
        (Path(place) / "shards" / f"{unit.number:05d}.json").unlink(missing_ok=True)
        make_shard(job, unit)


def shards_of(folder: Path) -> dict[str, bytes]:
    """The bytes of all shards."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shards/*.parquet"))}


def main(warc: str, copies: int) -> None:
    """All arms in turn; ratios of medians."""
    connect(ClusterSection(num_cpus=2), namespace="benchmark")
    walls: dict[str, list[float]] = {}
    made = []
    try:
        for number in range(-1, ROUNDS):  # the first round fills caches, and is not counted
            for workers in (1, 2):
                wall, seconds, files = by_ray(warc, 3 - workers, copies)
                where = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
                print(f"  {workers} under Ray: {wall:.1f} s (of all workers: {where})", flush=True)
                apart, same = alone(warc, workers, copies)
                print(f"  {workers} alone: {apart:.1f} s", flush=True)
                made += [files, same]
                if number >= 0:
                    walls.setdefault(f"ray {workers}", []).append(wall)
                    walls.setdefault(f"alone {workers}", []).append(apart)
    finally:
        disconnect()
    assert all(files == made[0] for files in made), "the files are not equal to the bit"
    middle = {name: statistics.median(own) for name, own in walls.items()}
    got, most = (middle[f"{arm} 1"] / middle[f"{arm} 2"] for arm in ("ray", "alone"))
    print(
        f"{middle}\ntwo workers: {got:.2f} times as fast as one; two processes that share nothing: {most:.2f} times"
    )
    print(
        f"so {got / most:.0%} of what the machine gives; Ray costs one worker {middle['ray 1'] / middle['alone 1'] - 1:.1%}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--part":
        part(*sys.argv[2:])
    else:
        main(os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else COPIES)
