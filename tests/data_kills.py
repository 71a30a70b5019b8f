"""Kill data stages with SIGKILL at random moments and let them go on, until they are done."""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

from tests.data_stages import files_of, run_stages


def differ_after_kills(folder: Path, stages: dict[str, Any], *, kills: int, seed: int) -> list[str]:
    """Files of the stages that are not equal to the bit, between a run left alone and runs that were killed.

    Each killed run is a process of its own; a run that ends before its moment is begun anew elsewhere.
    """
    run_stages(folder / "warm", stages)
    started = time.monotonic()
    run_stages(folder / "whole", stages)
    whole_s = time.monotonic() - started
    rng, killed, number = random.Random(seed), 0, 0
    wrong: list[str] = []
    while killed < kills:
        run, done = folder / f"run-{number}", False
        while not done:
            moment = rng.uniform(0, 0.8 * whole_s) if killed < kills else 60.0
            done = _runs_for(run, stages, moment)
            killed += not done
        wrong += [
            f"{run.name}/{path}"
            for stage in stages
            for path in _differing(files_of(folder / "whole", stage), files_of(run, stage))
        ]
        number += 1
    return wrong


def _runs_for(run: Path, stages: dict[str, Any], seconds: float) -> bool:
    process = multiprocessing.get_context("fork").Process(target=run_stages, args=(run, stages))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, f"the run ended with {process.exitcode}"
    return True


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return [path for path in {*one, *other} if one.get(path) != other.get(path)]
