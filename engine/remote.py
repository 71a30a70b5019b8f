"""One or several engine actors behind the engine protocol, each made again where it dies."""

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

from engine.actor import Spec, acquire
from engine.config import EngineConfig
from engine.protocol import Completion, Engine, Request, Sampling, Trace, groups_of
from engine.shares import Shares
from engine.sync_check import Proof, SyncError, SyncReport
from engine.tensor_bytes import pack
from engine.vllm_engine import VllmEngine
from model.weights import checkpoint_specs
from workbench.distributed import group
from workbench.errors import UserError
from workbench.placement import local_cards, settled

_POLL_S = 0.5
_MOST_RESTARTS = 3


class _Replica:
    """One actor of a `RemoteEngine`, made again where it dies."""

    def __init__(self, spec: "Spec") -> None:
        self.spec, self.restarts = spec, 0
        self.requests: dict[int, Request] = {}
        self.places: list[int] = []
        self.lock = threading.Lock()
        self.open()

    def open(self) -> None:
        self.handle, self.lease = acquire(self.spec)
        self.started = self.handle.start.remote(self.spec.model, self.spec.config)

    def submit(self, handle: Any, requests: dict[int, Request]) -> None:
        """Hand over requests by place; polls make them."""
        self.requests, self.places = requests, list(requests)
        _get(handle.call.remote("submit", list(requests.values())))

    def ended(self, items: Sequence[tuple[int, Completion]]) -> Iterator[tuple[int, Completion]]:
        """Completions of a poll, under the places of the whole batch."""
        for index, completion in items:
            place = self.places[index]
            del self.requests[place]
            yield place, completion


class _Order(NamedTuple):
    """A method of the engine and what it is given."""

    method: str
    given: Any = None
    options: dict[str, Any] = {}

    def begin(self, handle: Any) -> Any:
        given = () if self.given is None else (self.given,)
        return handle.call.remote(self.method, *given, **self.options)


class RemoteEngine:
    """Implements the engine protocol over the handles of one or more actors.

    Actors start in the background; the first call waits for them. One that dies is made again with
    the newest weights, and its requests are made again with their seeds.
    """

    def __init__(self, spec: Spec) -> None:
        self._replicas = [_Replica(spec) for _ in range(spec.config.replicas)]
        self._checkpoint: list[_Order] = []  # the base of adapters that come later
        self._weights: list[_Order] = []
        self._finalizer = weakref.finalize(self, _release, self._replicas)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Completion]]:
        """See protocol."""
        return groups_of(self, prompts, sampling)

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """See protocol. Requests are dealt out to the replicas in turn."""
        import ray  # noqa: PLC0415 - only where Ray is used

        # Call -> who was asked: another thread may make the actor again meanwhile.
        polls: dict[Any, tuple[_Replica, Any]] = {}
        width = len(self._replicas)
        for number, replica in enumerate(self._replicas):
            part = {place: requests[place] for place in range(number, len(requests), width)}
            if part:
                polls |= self._submit(replica, part)
        try:
            while polls:
                ready, _ = ray.wait(list(polls))
                replica, handle = polls.pop(ready[0])
                try:
                    items, left = _get(ready[0])
                except ray.exceptions.RayActorError as error:
                    self._revive(replica, handle, error)
                    items, left = [], 0
                ended = list(replica.ended(items))
                if left:
                    polls[handle.poll.remote(_POLL_S)] = (replica, handle)
                elif replica.requests:  # this actor has been made again since they were submitted
                    polls |= self._submit(replica, replica.requests)
                yield from ended
        finally:
            for _, handle in polls.values():
                handle.call.remote("abort")

    def update_weights(
        self,
        tensors: Iterable[tuple[str, Any]] | Shares,
        *,
        version: int,
        proof: Proof | None = None,
    ) -> SyncReport | None:
        """See protocol. The tensors are put into Ray's object store once, if they are not there in shares;
        every replica checks them, and so does one that is made again later. The report is of the
        worst."""
        import ray  # noqa: PLC0415 - only where Ray is used

        source = tensors if isinstance(tensors, Shares) else ray.put(pack(tensors))
        digests, base = (None, None) if proof is None else (proof.digests, proof.base)
        options = {"version": version, "digests": digests, "base": base}
        load = _Order("load_weights", source, options)
        # Before each half is begun: an actor that dies after its own must not be made again with less.
        stand = [] if base is None else self._checkpoint
        before, self._weights = self._weights, [*stand, load]
        try:
            calls = self._start(load)
            probes = None if proof is None else proof.score()  # meanwhile
            self._finish(load, calls)
            if probes is None:
                return None
            check = _Order("check_weights", probes, {"version": version})
            self._weights = [*stand, load, check]
            return worst_report(self._on_all(check))
        except BaseException:
            self._weights = before
            if proof is not None:
                self._reject(version)
            raise

    def _reject(self, version: int) -> None:
        """An engine that has loaded would wait for a check that does not come, and its user too."""
        for replica in self._replicas:
            with replica.lock:  # behind the orders of one that is being made again
                replica.handle.call.remote("reject_weights", version=version)

    def load_checkpoint(self, path: str, *, version: int) -> None:
        """See protocol."""
        load = _Order("load_checkpoint", path, {"version": version})
        self._on_all(load)
        self._checkpoint = self._weights = [load]

    def trace(self, request: Request) -> list[Trace]:
        """See protocol."""
        return [t for traces in self._on_all(_Order("trace", request)) for t in traces]

    def describe(self) -> dict[str, Any]:
        """See protocol."""
        return self._on_all(_Order("describe"))[0]

    def rest(self) -> None:
        """Have every replica leave its card until something is asked."""
        self._on_all(_Order("rest"))

    @property
    def restarts(self) -> int:
        """How often actors died and were made again, in all."""
        return sum(replica.restarts for replica in self._replicas)

    def close(self) -> None:
        """Leave the actors warm for the next stage."""
        self._finalizer()

    def _on_all(self, order: "_Order") -> list[Any]:
        return self._finish(order, self._start(order))

    def _start(self, order: "_Order") -> list[tuple[Any, Any]]:
        """Begin the order in every replica; (the actor asked, its call) of each."""
        handles = [self._wait(replica) for replica in self._replicas]
        return [(handle, order.begin(handle)) for handle in handles]

    def _finish(self, order: "_Order", calls: list[tuple[Any, Any]]) -> list[Any]:
        """Its results, begun again where an actor died."""
        import ray  # noqa: PLC0415 - only where Ray is used

        results = []
        for replica, (handle, call) in zip(self._replicas, calls, strict=True):
            while True:
                try:
                    results.append(_get(call))
                    break
                except ray.exceptions.RayActorError as error:
                    self._revive(replica, handle, error)
                    handle = self._wait(replica)
                    call = order.begin(handle)
        return results

    def _submit(
        self, replica: _Replica, requests: dict[int, Request]
    ) -> dict[Any, tuple[_Replica, Any]]:
        """Its first poll, as `stream` keeps them."""
        import ray  # noqa: PLC0415 - only where Ray is used

        while True:
            handle = self._wait(replica)
            try:
                replica.submit(handle, requests)
                return {handle.poll.remote(_POLL_S): (replica, handle)}
            except ray.exceptions.RayActorError as error:
                self._revive(replica, handle, error)

    def _wait(self, replica: _Replica) -> Any:
        """The replica's actor, once it has started and holds its weights."""
        import ray  # noqa: PLC0415 - only where Ray is used

        while True:
            with replica.lock:
                handle, started = replica.handle, replica.started
            try:
                _get(started)
                return handle
            except ray.exceptions.RayActorError as error:
                self._revive(replica, handle, error)

    def _revive(self, replica: _Replica, dead: Any, error: Exception) -> None:
        """A new actor in place of the dead one, with the newest weights, made by whichever thread
        notices first: one samples while another syncs."""
        import ray  # noqa: PLC0415 - only where Ray is used

        with replica.lock:
            while replica.handle is dead:
                replica.restarts += 1
                if replica.restarts > _MOST_RESTARTS:
                    raise RuntimeError(f"the engine died {replica.restarts} times") from error
                try:
                    replica.open()
                    _get(replica.started)
                    for order in self._weights:
                        _get(order.begin(replica.handle))
                except ray.exceptions.RayActorError as again:  # the new one has died too
                    dead, error = replica.handle, again


def start_engine(
    model: str | Path,
    config: EngineConfig,
    *,
    log: Path | None = None,
    engine_class: type[Any] = VllmEngine,
) -> Engine:
    """An engine holding this checkpoint's weights; close it when done.

    In a Ray task: warm actors of the same architecture and settings, else new ones, whose output
    goes to the file `log`. Without Ray: an engine in this process.

    Raises: UserError where the folder is not a whole checkpoint.
    """
    import ray  # noqa: PLC0415 - only where Ray is used

    checkpoint_specs(model)
    config = _settled(config)
    if not ray.is_initialized():
        if config.gpus:
            group.limit_memory(1.0)  # vLLM keeps to its own share
        engine: Engine = engine_class(str(model), config)
        return engine
    return RemoteEngine(Spec(str(model), config, str(log) if log else None, engine_class))


def _settled(config: EngineConfig) -> EngineConfig:
    """With the cards chosen where the recipe's placement did not reach (an engine of a merge)."""
    import ray  # noqa: PLC0415 - only where Ray is used

    cards = int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else local_cards()
    share = floor(1e4 / -(-config.replicas // cards)) / 1e4 if cards else 0.0
    return settled(config, share)


def worst_report(reports: Sequence[SyncReport | None]) -> SyncReport | None:
    """The largest errors of several replicas; None where one did not check.

    >>> worst_report([SyncReport(1e-6, 2e-6), SyncReport(3e-6, 1e-6)])
    SyncReport(probe_error=3e-06, decode_error=2e-06)
    """
    known = [report for report in reports if report is not None]
    if len(known) < len(reports):
        return None
    return SyncReport(*(max(errors) for errors in zip(*known, strict=True)))


def _release(replicas: Sequence[_Replica]) -> None:
    import ray  # noqa: PLC0415 - only where Ray is used

    if ray.is_initialized():
        for replica in replicas:
            replica.handle.release.remote(replica.lease)


def _get(call: Any) -> Any:
    """The result of a call; a UserError or SyncError of the actor is raised here as itself."""
    import ray  # noqa: PLC0415 - only where Ray is used

    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | SyncError):
            raise error.cause from None
        raise
