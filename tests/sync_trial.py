"""Trials of a weight sync into a real engine: every fault once, and clean syncs."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from engine.sync_check import SyncError
from model.lora import has_adapters
from tests import adapter_faults, expert_faults, sync_faults
from tests.sync_pair import Pair


class OnTheWay:
    """The engine, behind a line that changes what is sent."""

    def __init__(self, engine: Any, change: Callable[[Any], Any]) -> None:
        self.engine, self.change = engine, change

    def update_weights(self, tensors: Any, *, version: int, proof: Any) -> Any:
        sent = list(self.change(dict(tensors)).items())
        return self.engine.update_weights(sent, version=version, proof=proof)


def caught(act: Callable[[], Any]) -> str | None:
    """The error of a sync, or None where it went through."""
    try:
        act()
    except SyncError as error:
        return str(error)
    return None


@contextlib.contextmanager
def loading(engine: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    load = engine._load
    with patch.object(engine, "_load", lambda t: load(change(dict(t)))):
        yield


def _against(fault: Any, old: dict[str, torch.Tensor]) -> Callable[[Any], Any]:
    return lambda new: fault(new, old)


def attempts(
    pair: Pair, old: dict[str, torch.Tensor], old_sent: dict[str, torch.Tensor]
) -> Iterator[tuple[str, str, Any]]:
    """(name, what must be said, a sync with that fault in it). `old` is what stale tensors hold, `old_sent`
    the same on the way."""
    engine, faults = pair.engine, faults_of(pair)
    for name, fault in faults.SENT.items():
        way = OnTheWay(engine, _against(fault, old_sent))
        yield name, "what arrived is not what was sent", partial(pair.sync, way)
    for name, fault in getattr(faults, "BASE", {}).items():
        yield name, "Nothing was loaded", _inside(pair, fault(pair))
    unread = getattr(faults, "UNREAD", {})
    for says, loaded in (("does not hold what it was given", faults.LOADED), ("nats", unread)):
        for name, fault in loaded.items():
            yield name, says, _inside(pair, loading(engine, _against(fault, old)))
    for name, fault in faults.LIVE.items():
        yield name, "does not hold what it was given", _inside(pair, fault(engine))
    for name, fault in faults.RUNNING.items():
        yield name, "nats", _inside(pair, fault(engine))


def faults_of(pair: Pair) -> Any:
    """The module of the faults that are a pair's."""
    if pair.experts:
        return expert_faults
    return adapter_faults if has_adapters(pair.model) else sync_faults


def _inside(pair: Pair, fault: Any) -> Callable[[], Any]:
    def act() -> None:
        with fault:
            pair.sync()

    return act


class Faults(NamedTuple):
    """What came of every fault: names, those missed, those whose error says something else, and
    clean syncs after them that raised an alarm."""

    names: list[str]
    missed: list[str]
    otherwise: list[str]
    alarms: list[str]
    by: Counter[str]

    def __str__(self) -> str:
        caught_by = ", ".join(f"{count} '{what}'" for what, count in self.by.items())
        return (
            f"weight sync: {len(self.names)} corruptions, {len(self.names) - len(self.missed)} caught "
            f"({caught_by}), {len(self.alarms)} false alarms in the clean sync after each"
        )


def try_faults(pair: Pair) -> Faults:
    """A sync with each fault in it, each followed by a clean one of weights that moved on."""
    out = Faults([], [], [], [], Counter())
    pair.sync()
    for name, says, act in attempts(pair, pair.state(), pair.sent()):
        out.names.append(name)
        pair.move()
        message = caught(act)
        if message is None:
            out.missed.append(name)
        elif says not in message:
            out.otherwise.append(f"{name}: {message}")
        out.by[says] += message is not None
        pair.move()
        alarm = caught(pair.sync)
        if alarm is not None:
            out.alarms.append(f"after {name}: {alarm}")
    return out


def clean_syncs(pair: Pair, count: int) -> tuple[str, list[str]]:
    """Syncs with moving weights: what to print, and the alarms."""
    probe, decode, alarms = [0.0], [0.0], []
    begun = time.perf_counter()
    for _ in range(count):
        pair.move()
        try:
            report = pair.sync()
        except SyncError as error:
            alarms.append(str(error))
            continue
        probe.append(report.probe_error)
        decode.append(report.decode_error)
    seconds = (time.perf_counter() - begun) / count
    says = (
        f"weight sync: {count:,} clean syncs, {len(alarms)} false alarms; largest probe error "
        f"{max(probe):.2g}, decode error {max(decode):.2g} nats; {seconds * 1000:.0f} ms a sync"
    )
    return says, alarms
