"""Whether a cluster has room for a stage's workers, and waiting for a machine after one was lost."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from workbench.cluster import runtime_env
from workbench.distributed.config import DistributedConfig
from workbench.errors import UserError
from workbench.provenance import card_memory
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

    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    found = Counter[str]()
    for node in _asked(_here, alive, should_stop):
        found.update(alive[node])
    return dict(found)


def memory_of_cards() -> list[float]:
    """Bytes of each card of the cluster's machines, as each one's nvidia-smi says: Ray counts cards and knows no
    more of them. Of a machine that Ray has fewer of, the largest, as a small one for a screen is left out of it
    first; nothing of one that has none to ask, has parts of cards (MIG), or does not answer."""
    import ray  # noqa: PLC0415 - see check_room

    alive = {n["NodeID"]: int(n["Resources"].get("GPU", 0)) for n in ray.nodes() if n["Alive"]}
    counted = {node: cards for node, cards in alive.items() if cards}
    told = _asked(card_memory, counted, lambda: False)
    return [
        size
        for node, cards in told.items()
        for size in largest(list(cards.values()), counted[node])
    ]


def largest(sizes: list[float], count: int) -> list[float]:
    """So many cards' bytes of a machine's; nothing where it has fewer, or one of them is not told.

    >>> largest([4.0, 80.0], 1), largest([80.0], 7), largest([0.0, 80.0], 2)
    ([80.0], [], [])
    """
    kept = sorted(sizes, reverse=True)[:count]
    return kept if len(kept) == count and all(kept) else []


def _asked(
    task: Callable[[], Any], nodes: Collection[str], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """What the task returns on each of the machines that answer."""
    import ray  # noqa: PLC0415 - see check_room
    from ray.util.scheduling_strategies import (  # noqa: PLC0415
        NodeAffinitySchedulingStrategy as Affinity,
    )

    remote = ray.remote(num_cpus=0, max_retries=0, runtime_env=runtime_env(0))(task)
    asked: dict[Any, str] = {
        remote.options(scheduling_strategy=Affinity(node, soft=False)).remote(): node
        for node in nodes
    }
    end, waiting = time.monotonic() + _ANSWER_S, list(asked)
    while waiting and time.monotonic() < end and not should_stop():
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_S)
    found: dict[str, Any] = {}
    for answer, node in asked.items():
        if answer in waiting:
            ray.cancel(answer)
            continue
        with suppress(ray.exceptions.RayError):
            found[node] = ray.get(answer)
    return found


def _here() -> None:
    """Runs, which is the answer."""
