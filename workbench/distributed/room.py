"""Whether a cluster has room for a stage's workers, and waiting for a machine after one was lost."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from workbench.distributed.config import DistributedConfig
from workbench.errors import UserError
from workbench.stage import StageContext

_ANSWER_S = 60.0  # a process starts in seconds on a machine that is there
_LOOK_S = 2.0


def check_room(config: DistributedConfig) -> None:
    """Raises: UserError where the whole cluster could never hold the workers; Ray would wait forever."""
    import ray  # noqa: PLC0415 - only where workers start

    if short := shortage(ray.cluster_resources(), config):
        raise UserError(f"{short}; lower distributed.workers or add nodes")


def wait_for_room(context: StageContext, config: DistributedConfig) -> None:
    """After a worker was lost: wait, `config.wait_s` at most, until machines are there that hold them all.

    Raises: UserError where they do not come; StopRequested where the run is stopped meanwhile.
    """
    end = time.monotonic() + config.wait_s
    while short := shortage(answering(context.should_stop), config):
        if context.should_stop():
            context.stop()
        if time.monotonic() >= end:
            raise UserError(
                f"a machine was lost, and {config.wait_s:g} s later {short}; add one or lower "
                "distributed.workers, and rerun: the stage goes on from its newest checkpoint"
            )
        context.progress(message=f"waiting for a machine: {short}")
        time.sleep(_LOOK_S)


def shortage(resources: Mapping[str, float], config: DistributedConfig) -> str | None:
    """What the workers need and the cluster lacks, or None."""
    for name, each in (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker or 0.0)):
        needed, there = config.workers * each, resources.get(name, 0.0)
        if needed > there:
            return (
                f"{config.workers} workers need {needed:g} {name}s ({each:g} each) and the cluster has "
                f"{there:g}"
            )
    return None


def answering(should_stop: Callable[[], bool]) -> dict[str, float]:
    """What the machines have that run a task now: Ray counts a lost one until its health checks failed.

    should_stop: ends the wait for those that have not answered.
    """
    import ray  # noqa: PLC0415 - see check_room
    from ray.util.scheduling_strategies import (  # noqa: PLC0415
        NodeAffinitySchedulingStrategy as Affinity,
    )

    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    here = ray.remote(num_cpus=0, max_retries=0)(_here)
    asked: dict[Any, str] = {
        here.options(scheduling_strategy=Affinity(node, soft=False)).remote(): node
        for node in alive
    }
    end, waiting = time.monotonic() + _ANSWER_S, list(asked)
    while waiting and time.monotonic() < end and not should_stop():
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_S)
    found = Counter[str]()
    for answer, node in asked.items():
        if answer in waiting:
            ray.cancel(answer)
            continue
        with suppress(ray.exceptions.RayError):
            ray.get(answer)
            found.update(alive[node])
    return dict(found)


def _here() -> None:
    """Runs, which is the answer."""
