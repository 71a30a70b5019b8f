"""How much faster two workers make shards than one (docs/data.md).

    PYTHONPATH=. python benchmarks/data_workers.py data/pages.warc.gz

The mathematics funnel's steps on a WARC, under Ray on two CPUs, in interleaved rounds: each worker takes both
CPUs, so that one works at a time, or one. Ray and the workers are started before. The machine must be quiet;
beside the wall time stands the CPU time of both arms, which tells whether it was. About two minutes.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.data_stages import data_of, files_of, run_stages
from workbench.cluster import connect, disconnect
from workbench.recipe import ClusterSection
from workbench.rundir import RunDir

ROUNDS, ROWS = 3, 5


def stage(warc: str, cpus: int) -> dict[str, Any]:
    """The funnel, one worker a `cpus` CPUs."""
    steps = [
        *({"type": "equations", "least": 1}, {"type": "html", "by": "lynx"}),
        *({"type": "fix_text"}, {"type": "language", "keep": ["en"]}),
    ]
    return {
        "kind": "curate",
        "input": {"type": "warc", "path": warc},
        "rows_per_shard": ROWS,
        "workers": {"cpus": cpus},
        "steps": steps,
    }


def seconds(folder: Path, warc: str, cpus: int) -> tuple[float, float, dict[str, bytes]]:
    """(Seconds of the stage, seconds of its shards in sum, what it made)."""
    code, said = run_stages(folder, {"pages": stage(warc, cpus)})
    assert code == 0, said
    manifest = RunDir(folder).manifest("pages")
    assert manifest is not None
    spent = data_of(folder, "pages")["seconds"]["all"]
    return manifest.wall_s, spent, files_of(folder, "pages")


def main() -> None:
    """Both arms in turn; the ratio of medians."""
    warc = os.path.abspath(sys.argv[1])
    connect(ClusterSection(num_cpus=2), namespace="benchmark")
    walls: dict[int, list[float]] = {1: [], 2: []}
    made = []
    try:
        for number in range(-1, ROUNDS):  # the first round starts workers, and is not counted
            for workers in (1, 2):
                with tempfile.TemporaryDirectory() as place:
                    wall, spent, files = seconds(Path(place), warc, 3 - workers)
                made.append(files)
                print(f"  {workers} workers: {wall:.1f} s, in shards {spent:.1f} s", flush=True)
                if number >= 0:
                    walls[workers].append(wall)
    finally:
        disconnect()
    assert all(files == made[0] for files in made), "the files are not equal to the bit"
    one, two = (statistics.median(walls[workers]) for workers in (1, 2))
    print(f"workers: {one:.1f} s with one, {two:.1f} s with two, {one / two:.2f} times as fast")


if __name__ == "__main__":
    main()
