"""Engines as Ray actors: warm by name across steps and stages.

An actor stays behind for the next stage of the run and ends by itself once nobody has used it for
`IDLE_EXIT_S`. A lease keeps two stages that run at once from loading weights into the same one.
"""

import os
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from engine.config import EngineConfig
from engine.protocol import Completion
from engine.shares import Shares
from engine.tensor_bytes import TensorBytes, unpack
from engine.vllm_engine import ENVIRONMENT, ENVIRONMENT_CPU, VllmEngine
from model.weights import architecture
from workbench.cluster import end_idle_engines, end_orphaned_engines, runtime_env
from workbench.errors import UserError
from workbench.provenance import digest
from workbench.stuck import answer_in, answers_where

IDLE_EXIT_S = 600.0
ROOM_S = 600.0
"""Longest wait for the room of an engine."""
_WARM_S = 15.0  # before warm engines of other shapes are ended
# A dead actor's name is free again once Ray has noticed, which a busy machine delays by a minute.
_DEAD_NAME_S = 120.0


class Lease(NamedTuple):
    """Who uses an engine: a process of a node, and a number that tells its engines apart."""

    node: str
    pid: int
    number: int
    stacks: str = ""
    """Where the engine says what it is at, should the stage be stuck (workbench.stuck)."""

    def is_dead(self, node: str) -> bool:
        """Whether the holder has gone. A holder on another node counts as alive."""
        return self.node == node and not Path(f"/proc/{self.pid}").exists()


class EngineActor:
    """The shell around one engine in a Ray worker."""

    def __init__(
        self,
        log: str | None = None,
        engine_class: type[Any] = VllmEngine,
        idle_exit_s: float = IDLE_EXIT_S,
    ) -> None:
        if log is not None:
            _send_output_to(Path(log))
        self._idle_exit_s = idle_exit_s
        self._engine_class, self._engine = engine_class, None
        self._lease: Lease | None = None
        self._sleeps = False
        self._used = time.monotonic()
        threading.Thread(target=self._leave_when_idle, daemon=True).start()

    def acquire(self, lease: Lease) -> bool:
        """Take the engine over; False where a living process has it."""
        if self._lease is not None and not self._lease.is_dead(_node_id()):
            return self._lease == lease
        self._lease, self._used = lease, time.monotonic()
        answer_in(Path(lease.stacks) if lease.stacks else None, f"engine-{os.getpid()}")
        return True

    def is_idle(self) -> bool:
        """Whether nobody uses the engine."""
        return self._lease is None or self._lease.is_dead(_node_id())

    def release(self, lease: Lease) -> None:
        """Give the engine back. One that can sleep does: the next user's trainer finds the card free."""
        if self._lease == lease:
            self._lease, self._used = None, time.monotonic()
            if self._engine is not None and self._sleeps:
                self._engine.abort()  # what a user who was stopped has left keeps it awake
                self._engine.rest()
            answer_in(None, "")

    def start(self, model: str, config: EngineConfig) -> int:
        """Have an engine with this checkpoint's weights; returns the actor's process id."""
        if self._engine is not None:
            self._engine.load_checkpoint(model, version=0)
            return os.getpid()
        self._engine, self._sleeps = self._engine_class(model, config), config.sleep
        return os.getpid()

    def poll(self, seconds: float) -> tuple[list[tuple[int, Completion]], int]:
        """What ended within that time, and how many requests are left."""
        engine: Any = self._engine
        return engine.poll(seconds), engine.num_unfinished

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Any other method of the engine; packed tensors, whole or in shares, arrive there as tensors."""
        return getattr(self._engine, method)(*map(_opened, args), **kwargs)

    def _leave_when_idle(self) -> None:
        import ray  # noqa: PLC0415 - only where Ray is used

        while True:
            time.sleep(self._idle_exit_s / 20)
            held = self._lease is not None and not self._lease.is_dead(_node_id())
            if held:
                self._used = time.monotonic()
            elif time.monotonic() - self._used > self._idle_exit_s:
                # A process that just ends is a crash to Ray, which tells the user so at length.
                ray.kill(ray.get_runtime_context().current_actor)
                return


def _opened(given: Any) -> Any:
    if isinstance(given, Shares):
        return given.tensors()
    return unpack(given) if isinstance(given, TensorBytes) else given


class Spec(NamedTuple):
    """What an actor is made from."""

    model: str
    config: EngineConfig
    log: str | None
    engine_class: type[Any]


_LEASES = count()


def acquire(spec: Spec) -> tuple[Any, Lease]:
    """The first warm actor of this shape that nobody uses, or a new one."""
    import ray  # noqa: PLC0415 - only where Ray is used
    from ray.util import list_named_actors  # noqa: PLC0415

    shape = _shape_digest(Path(spec.model), spec.config)
    gpus = spec.config.gpus or 0.0
    environment = runtime_env(gpus)
    environment["env_vars"] |= ENVIRONMENT | ({} if gpus else ENVIRONMENT_CPU)
    environment["env_vars"]["OMP_NUM_THREADS"] = str(spec.config.threads)
    lease = Lease(_node_id(), os.getpid(), next(_LEASES), answers_where())
    number, deadline = 0, time.monotonic() + _DEAD_NAME_S
    while time.monotonic() < deadline:
        name = f"engine-{shape}-{number}"
        others = name in list_named_actors()
        actor = (
            ray.remote(EngineActor)
            .options(
                name=name,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=spec.config.cpus,
                num_gpus=gpus,
                runtime_env=environment,
            )
            .remote(spec.log, spec.engine_class)
        )
        try:
            if _is_given(actor.acquire.remote(lease), gpus):
                return actor, lease
            number, deadline = number + 1, time.monotonic() + _DEAD_NAME_S
        except ray.exceptions.GetTimeoutError:
            if not others:
                ray.kill(actor)
            raise UserError(
                f"no room for an engine of {spec.config.cpus:g} CPUs and {gpus:g} GPUs in "
                f"{ROOM_S:g} s: others hold the cluster's ({_free()} free); wait for them, or lower "
                "engine.gpus or engine.replicas"
            ) from None
        except ray.exceptions.RayActorError:
            time.sleep(0.5)
    raise RuntimeError("engine actors die before they can be used; see Ray's worker logs")


def _is_given(call: Any, gpus: float) -> bool:
    """Whether the actor is ours. It waits for its room; warm engines that nobody uses make some, but only
    after a while: at once (`cluster.make_room`), the one that is asked for could be among them.
    Raises: GetTimeoutError where there is none in time."""
    import ray  # noqa: PLC0415 - only where Ray is used

    if gpus:
        with suppress(ray.exceptions.GetTimeoutError):
            return bool(ray.get(call, timeout=_WARM_S))
        end_orphaned_engines()
        end_idle_engines()
    return bool(ray.get(call, timeout=ROOM_S))


def _free() -> str:
    import ray  # noqa: PLC0415 - only where Ray is used

    has = ray.available_resources()
    return f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"


def _node_id() -> str:
    import ray  # noqa: PLC0415 - only where Ray is used

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _send_output_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _shape_digest(model: Path, config: EngineConfig) -> str:
    """Engines are interchangeable when architecture, vocabulary and settings are the same."""
    shape = architecture(model)
    tokenizer = digest((model / "tokenizer.json").read_text())
    settings = config.model_dump(exclude={"replicas", "cpus", "gpus"})
    return digest([shape, tokenizer, settings])
