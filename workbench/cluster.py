"""Ray: start or join, the environment of its workers, and shutdown. Nobody else calls ray.init."""

import os
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.placement import Node, local_cards
from workbench.provenance import ROOT, digest
from workbench.recipe import ClusterSection

# Read by Ray when it is imported. Workers are ours alone, so usage reports and log copying are off.
# They are as nice as the command that starts them: Ray would add 15, and beside any other work on the
# machine a stage of seconds would then wait for minutes. `nice` in front of the command still counts.
_OURS = {
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_METRICS_COLLECTION": "1",
}


def thread_environment() -> dict[str, str]:
    """Environment that must stand before torch is imported (design: machine facts).

    With spinning OpenMP barriers (the default) the same step took 0.4 to 8 s on shared cores.
    """
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def worker_environment() -> dict[str, str]:
    """The environment of Ray workers: threads, and this checkout first on their path.

    Package names such as `tests` and `rl` are generic; an installed one must not win.
    """
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    unique = list(dict.fromkeys(path for path in paths if path))
    return {**thread_environment(), "PYTHONPATH": os.pathsep.join(unique)}


def runtime_env(gpus: float) -> dict[str, Any]:
    """Ray's runtime environment for a stage or an actor that reserves that many cards.

    Ray leaves the cards of a node visible to what reserves none, unless it is told otherwise. A process
    that has looked for cards and seen none never sees one, so those with a card are kept apart.
    """
    own = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "ANNEAL_ON_CARD": str(int(gpus > 0))}
    return {"env_vars": {**worker_environment(), **own}}


_NAMESPACE = "anneal-"


def namespace(what: str, run: Path) -> str:
    """Where a run's engines live: two runs of one name in different folders must not share them."""
    return f"{_NAMESPACE}{what}-{run.name}-{digest(str(run))[:8]}"


def is_in_use() -> bool:
    """Whether this process is of a Ray cluster: else engines are in it, beside the stage."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def connect(cluster: ClusterSection, *, namespace: str) -> str:
    """Join the cluster at `cluster.address` (or RAY_ADDRESS), or start Ray on this machine.

    Returns a line that says which. Raises: UserError where the address does not answer or Ray does not
    start.
    """
    for name, value in {**_OURS, **thread_environment()}.items():
        os.environ.setdefault(name, value)
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    ours = not address and "RAY_AUTH_MODE" not in os.environ
    if ours:
        # A token of this run alone: Ray's default would leave one in the home folder and say so.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray  # noqa: PLC0415 - takes seconds, and its environment must be set first

    if ours:
        _read_token()

    common: dict[str, Any] = {
        "namespace": namespace,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "configure_logging": False,
    }
    if address:
        _must_answer(address)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(f"Ray at {address!r} cannot be joined: {_first_line(error)}") from None
        end_engines()  # left over where an earlier driver of this run was killed
        return f"joined the Ray cluster at {address}"
    store = cluster.object_store_mb
    try:
        ray.init(
            address="local",
            num_cpus=cluster.num_cpus,
            num_gpus=local_cards() if cluster.num_gpus is None else cluster.num_gpus,
            object_store_memory=store and store * 2**20,
            include_dashboard=False,
            **common,
        )
    except Exception as error:  # noqa: BLE001 - Ray has no type of its own for this
        raise UserError(
            f"Ray could not be started on this machine: {_first_line(error)} Look for processes that "
            "keep every core busy, a full disk under /tmp, or too little shared memory"
        ) from None
    return "started Ray on this machine"


def _read_token() -> None:
    """Ray reads how to authenticate when it is imported, and a program may have done that before the run."""
    from ray import _raylet  # noqa: PLC0415 - see connect

    compiled: Any = _raylet  # its stubs lack both
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()


def check_address(cluster: ClusterSection) -> None:
    """Raises: UserError where a cluster that a run is to join does not answer. Starts nothing."""
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if cluster.backend == "ray" and address:
        _must_answer(address)


def disconnect() -> None:
    """Leave the cluster; what was started here ends with it."""
    import ray  # noqa: PLC0415 - see connect

    if ray.is_initialized():
        end_engines()
        ray.shutdown()


def end_engines() -> None:
    """End the engines of this run (of its Ray namespace): they would hold memory after it."""
    import ray  # noqa: PLC0415 - see connect
    from ray.util import list_named_actors  # noqa: PLC0415

    for name in list_named_actors():
        with suppress(ValueError):  # it has just ended by itself
            ray.kill(ray.get_actor(name))


def end_idle_engines() -> None:
    """End the engines of this run that nobody uses: warm ones hold the cards that another one needs."""
    import ray  # noqa: PLC0415 - see connect
    from ray.util import list_named_actors  # noqa: PLC0415

    for name in list_named_actors():
        with suppress(ValueError, ray.exceptions.RayError):
            actor = ray.get_actor(name)
            if ray.get(actor.is_idle.remote(), timeout=5):
                ray.kill(actor)


def make_room(gpus: float) -> None:
    """Before a process of ours begins that reserves so much of the cards: what nobody uses must not lie there."""
    import ray  # noqa: PLC0415 - see connect

    if not gpus:
        return
    end_orphaned_engines()
    if gpus > ray.available_resources().get("GPU", 0.0):
        end_idle_engines()


def end_orphaned_engines() -> None:
    """End the engines of runs, of anybody's, that have gone from the cluster: a driver that was killed ended none,
    and they would keep their share of a card until they had been idle for long enough."""
    import ray  # noqa: PLC0415 - see connect
    from ray._private import state  # noqa: PLC0415 - Ray's public list of jobs needs its dashboard
    from ray.util import list_named_actors  # noqa: PLC0415

    gone = {job["JobID"] for job in state.jobs() if job["IsDead"]}
    for found in list_named_actors(all_namespaces=True) if gone else ():
        if not found["namespace"].startswith(_NAMESPACE):
            continue  # somebody else's, who may have meant it to stay
        with suppress(ValueError):  # it has just ended by itself
            actor = ray.get_actor(found["name"], namespace=found["namespace"])
            if actor._actor_id.job_id.hex() in gone:
                ray.kill(actor)


def beside_driver() -> Any:
    """Ray's word for this process's own machine: what only waits for workers elsewhere ends with the driver,
    and with no other machine."""
    import ray  # noqa: PLC0415 - see connect
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def nodes() -> list[Node]:
    """The machines of the Ray cluster that was joined or started."""
    import ray  # noqa: PLC0415 - see connect

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(has.get("CPU", 0.0), int(has.get("GPU", 0))) for has in alive]


def _must_answer(address: str) -> None:
    """Fail in seconds where Ray itself would retry for minutes."""
    if address in ("auto", "local"):
        return
    if address.startswith("ray://"):
        raise UserError(
            f"Ray address {address!r}: Ray Client is not supported; give host:port of the head, "
            "or use `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"Ray address {address!r}: write host:port (or auto)")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:  # a port above 65535, an odd host
        raise UserError(
            f"Ray at {address!r} does not answer ({error}); start it with `ray start --head` or "
            "leave --address out to run on this machine"
        ) from None
    if not os.environ.get("RAY_USE_TLS"):
        _must_speak_grpc(address)


def _must_speak_grpc(address: str) -> None:
    """Some other server's port (the dashboard's, 8265, is the usual one) makes Ray wait in vain."""
    import grpc  # noqa: PLC0415 - only where a cluster is joined

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
        except grpc.FutureTimeoutError:
            raise UserError(
                f"what listens at {address!r} is not the head of a Ray cluster; give the address "
                "that `ray start --head` printed (port 6379 unless told otherwise)"
            ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
