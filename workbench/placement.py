"""Who computes where: the cards of the cluster, shared out to stages, workers and engines.

One rule for one question: what a process reserves is what it sees and uses. `gpus: 0` hides the cards
from it, and a share of a card is the share of its memory. What a recipe leaves out is chosen here.
Imports no torch and no Ray.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from math import floor
from typing import Any, NamedTuple, Self, TypeVar

from workbench import registry
from workbench.errors import UserError
from workbench.provenance import card_memory, hardware
from workbench.recipe import ClusterSection, Recipe, StageConfig
from workbench.schema import KEYS_OF_A_STAGE, Section

# Of one card that a stage and its engines share. What is left is for their CUDA contexts.
STAGE_SHARE = 0.35
ENGINE_SHARE = 0.6
# Of its memory, for whoever of the two is at work while the other has left it (`takes_turns`). On the smallest
# card that we plan for, 24 GB, 3.4 GiB are left: for both processes' CUDA contexts and what a sleeping engine keeps,
# its graphs and a buffer of logits for every sequence. What they keep beyond that is taken off the trainer's
# share in the plan (model/room.py).
TURN_SHARE = 0.85
# Of a card that an engine has alone: CUDA's own context and fragmentation need the rest.
MOST_MEMORY = 0.9
_GRAIN = 10_000  # Ray counts cards in steps of 1e-4
# Keys of a stage or a `Reserving` section that say where it runs: the same stage on other hardware is the same stage.
RESOURCES = frozenset(
    {"cpus", "gpus", "gpus_per_worker", "gpu_memory_utilization", "restarts", "wait_s"}
)


class Node(NamedTuple):
    """A machine of the cluster: logical CPUs, cards."""

    cpus: float
    cards: int


class Seat(NamedTuple):
    """What some equal processes reserve each. gpus None: not chosen yet. least: whole cards that one
    cannot do without (an engine that spans several), 0 where a share will do. sleeps: they leave the card's
    memory while nothing is asked of them. memory: share of a card's memory that the recipe gives them.

    Example: Seat("engine", copies=8, cpus=0, gpus=None)
    """

    who: str
    copies: int
    cpus: float
    gpus: float | None
    least: int = 0
    sleeps: bool = False
    memory: float | None = None


def engine_share(seat: Seat) -> float:
    """Of each of its cards' memory, what an engine takes: what the recipe gives it, else its share of the card,
    at most MOST_MEMORY."""
    if seat.memory is not None:
        return seat.memory
    return min((seat.gpus or 0.0) / max(seat.least, 1), MOST_MEMORY)


class Reserving(Section):
    """A section of a stage whose processes reserve cards beside the stage's own task."""

    def seat(self) -> Seat | None:
        """What they reserve; None where there are none."""
        raise NotImplementedError

    def with_gpus(self, each: float) -> Self:
        """The same section with that many cards for each process."""
        raise NotImplementedError

    def with_memory(self, share: float) -> Self:
        """The same section with that share of a card's memory for each process."""
        raise NotImplementedError


AnySection = TypeVar("AnySection", bound=Section)


def seats(config: StageConfig) -> list[Seat]:
    """The stage's own task, then what its sections reserve."""
    cpus, gpus = config.reserved
    own = Seat("stage", 1, cpus, gpus)
    return [own, *(seat for part in _parts(config) if (seat := part.seat()) is not None)]


def local_cards() -> int:
    """Cards of this machine that torch can use: none for torch's CPU build."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not _visible(named):
        return 0  # without asking for the cards
    try:
        if "+cpu" in metadata.version("torch"):
            return 0
    except metadata.PackageNotFoundError:
        return 0
    count = len(hardware()["gpus"])
    return count if named is None else min(count, len(_visible(named, count)))


def _visible(named: str, count: int = 1 << 30) -> list[str]:
    """Which of `count` cards CUDA_VISIBLE_DEVICES names, by CUDA's own rule: those before the first name
    that is none (-1, nothing, a number too high); none at all where one is named twice."""
    seen = list[str]()
    for name in map(str.strip, named.split(",")):
        if not name.startswith(("GPU-", "MIG-")) and not (name.isdecimal() and int(name) < count):
            break
        seen.append(name)
    return seen if len(set(seen)) == len(seen) else []


def local_memory() -> list[float]:
    """Bytes of each card that CUDA_VISIBLE_DEVICES leaves; nothing where a name's card is not known (a part of
    one: MIG). CUDA numbers the fastest card first, in an order that is not asked for here: numbers then stand
    for the largest cards, and with CUDA_DEVICE_ORDER=PCI_BUS_ID for nvidia-smi's."""
    cards, named = card_memory(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [size for size in cards.values() if size]
    names = _visible(named, len(cards))
    numbers = [int(name) for name in names if name.isdecimal()]
    found = [
        [size for uuid, size in cards.items() if uuid.startswith(n)]
        for n in names
        if not n.isdecimal()
    ]
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        found += [[list(cards.values())[number]] for number in numbers]
    else:
        found += [[size] for size in sorted(cards.values(), reverse=True)[: len(numbers)]]
    known = all(len(sizes) == 1 and sizes[0] for sizes in found)
    return [size for (size,) in found] if known else []


def local_nodes(cluster: ClusterSection) -> list[Node] | None:
    """This machine as the one node of the run; None where a cluster is to be joined."""
    if cluster.backend == "ray" and (cluster.address or os.environ.get("RAY_ADDRESS")):
        return None
    cards = local_cards() if cluster.num_gpus is None else cluster.num_gpus
    return [Node(float(cluster.num_cpus or os.cpu_count() or 1), cards)]


def settle(recipe: Recipe, nodes: Sequence[Node]) -> Recipe:
    """The recipe with every reservation that it leaves out chosen.

    One card: a stage and its engines share it. Several: the stage has one, its engines the others.
    Without a card, and for stages that compute no model, none.
    """
    cards = max((node.cards for node in nodes), default=0)
    return recipe.model_copy(
        update={"stages": {n: _settled(config, cards) for n, config in recipe.stages.items()}}
    )


def settled(section: AnySection, gpus: float) -> AnySection:
    """A section with `gpus` for each process that leaves them out, in sections inside it too."""
    if isinstance(section, Reserving):
        seat = section.seat()
        if seat is not None and seat.gpus is None:
            return section.with_gpus(float(max(gpus, seat.least)) if gpus else 0.0)
        return section
    changed = {
        name: new
        for name, value in section
        if isinstance(value, Section) and (new := settled(value, gpus)) is not value
    }
    return section.model_copy(update=changed) if changed else section


def _settled(config: StageConfig, cards: int) -> StageConfig:
    own, *others = seats(config)
    if own.gpus is None:
        config = config.model_copy(update={"gpus": _own_share(config, others, cards)})
    made = settled(config, _others_share(config.reserved[1] or 0.0, others, cards))
    return _remembered(made, memory_shares(made).engine) if takes_turns(made) else made


def takes_turns(config: StageConfig) -> bool:
    """Whether the stage and its engines have one card's memory one after the other: the engines sleep, the
    stage's training never overlaps with sampling, and both have shares of the card."""
    asleep = all(seat.sleeps for seat in seats(config)[1:] if seat.gpus)
    return _on_one_card(config) and asleep and config.to_alternate() == ""


def _on_one_card(config: StageConfig) -> bool:
    """Whether the stage and its engines have shares of a card."""
    own, *others = seats(config)
    sharing = [seat.gpus for seat in others if seat.gpus]
    return bool(sharing) and 0 < (own.gpus or 0.0) < 1 and all(gpus < 1 for gpus in sharing)


class MemoryShares(NamedTuple):
    """Of one card's memory: the stage's own process's, and each of its engines'. turns: they have it one
    after the other, else side by side."""

    stage: float
    engine: float
    turns: bool = False


def memory_shares(config: StageConfig) -> MemoryShares:
    """Of a settled stage. A trainer with a whole card has all of it (1.0), an engine its `engine_share`."""
    own, *others = seats(config)
    stage = next((seat.gpus for seat in others if seat.who == "workers"), own.gpus)
    engines = [seat for seat in others if seat.who == "engine"]
    if takes_turns(config):
        return _in_turns(engines)
    return MemoryShares(min(stage or 0.0, 1.0), next(map(engine_share, engines), 0.0))


def _in_turns(engines: Sequence[Seat]) -> MemoryShares:
    """Of engines that the recipe gives no share each has as much as the others."""
    each = floor(TURN_SHARE / sum(seat.copies for seat in engines) * _GRAIN) / _GRAIN
    given = next((seat.memory for seat in engines if seat.memory), each)
    return MemoryShares(TURN_SHARE, given, turns=True)


def to_take_turns(config: StageConfig) -> tuple[str, MemoryShares] | None:
    """Of a settled stage: the keys to change so that it and its engines have one card's memory one after the
    other, and the shares that they then get. None where they do, where they share none, or no key does it."""
    others = seats(config)[1:]
    keys = config.to_alternate()
    if keys is None or takes_turns(config) or not _on_one_card(config):
        return None
    asleep = all(seat.sleeps for seat in others if seat.gpus)
    words = ", ".join(w for w in ("" if asleep else "engine: {sleep: true}", keys) if w)
    return words, _in_turns([seat for seat in others if seat.who == "engine"])


def _remembered(section: AnySection, share: float) -> AnySection:
    """A section whose engines have that share of a card's memory, unless the recipe gives them another."""
    if isinstance(section, Reserving):
        seat = section.seat()
        told = seat is None or seat.memory is not None or not seat.gpus
        return section if told else section.with_memory(share)
    changed = {
        name: new
        for name, value in section
        if isinstance(value, Section) and (new := _remembered(value, share)) is not value
    }
    return section.model_copy(update=changed) if changed else section


def _own_share(config: StageConfig, others: Sequence[Seat], cards: int) -> float:
    if not cards or not registry.kind(config.kind).on_card:
        return 0.0
    if not any(seat.gpus != 0 for seat in others):
        return 1.0
    taken = sum(seat.copies * seat.gpus for seat in others if seat.gpus)
    wanted = any(seat.gpus is None for seat in others)
    if cards == 1 and taken < 1 and not any(seat.least > 1 for seat in others):
        return STAGE_SHARE if wanted else min(STAGE_SHARE, round(1 - taken, 4))
    return 1.0


def _others_share(own: float, others: Sequence[Seat], cards: int) -> float:
    copies = sum(seat.copies for seat in others if seat.gpus is None)
    if not copies or not cards:
        return 0.0
    if any(seat.who == "workers" and seat.gpus is None for seat in others):
        return 1.0  # a worker has a whole card (NCCL takes no two on one)
    if cards == 1 and 0 < own < 1:
        room = min(ENGINE_SHARE, 1 - own)
        return floor(room / copies * _GRAIN) / _GRAIN
    free = max(cards - int(own + 0.999), 1)
    return floor(_GRAIN / -(-copies // free)) / _GRAIN


def _parts(section: Section) -> Iterator[Reserving]:
    for _, value in section:
        if isinstance(value, Reserving):
            yield value
        elif isinstance(value, Section):
            yield from _parts(value)


def digested(value: Any, said: dict[str, Any], *, anywhere: bool = False) -> dict[str, Any]:
    """A section's dumped configuration without what only says where it runs, in sections below it too. A part
    that says nothing else is left out, as one at its defaults is.

    value: the section, or what stands in one, that `said` is the dump of: in a mapping that is the user's own
    (options of an environment, of a package) the same names mean something else, and stay. anywhere: it holds
    keys of a stage that no section has read, in which they never stay.
    """
    fields = type(value).model_fields if isinstance(value, Section) else {}
    inside = dict(value) if isinstance(value, Section | dict) else {}
    below = {str(key): part for key, part in inside.items()}
    own: dict[str, Any] = {}
    for key, part in said.items():
        named = anywhere or (isinstance(value, StageConfig | Reserving) and key in fields)
        if named and key in RESOURCES:
            continue
        unread = anywhere or (key in fields and KEYS_OF_A_STAGE in fields[key].metadata)
        inner = digested(below.get(key), part, anywhere=unread) if isinstance(part, dict) else part
        if inner or not part or not isinstance(part, dict):
            own[key] = inner
    return own


def room(nodes: Sequence[Node], wanted: Iterable[Seat]) -> Seat | None:
    """The first seat for which no room is left once the larger ones sit; None where all fit.

    Ray's own rules: a share lies on one card, whole cards on one node.
    """
    cpus = [node.cpus for node in nodes]
    cards = [[_GRAIN] * node.cards for node in nodes]
    for seat in sorted(wanted, key=lambda s: (s.gpus or 0.0, s.cpus), reverse=True):
        for _ in range(seat.copies):
            if not _sit(cpus, cards, seat.cpus, round((seat.gpus or 0.0) * _GRAIN)):
                return seat
    return None


def _sit(cpus: list[float], cards: list[list[int]], cpu: float, gpu: int) -> bool:
    order = range(len(cpus)) if gpu else sorted(range(len(cpus)), key=lambda n: len(cards[n]))
    for node in order:
        if cpus[node] + 1e-9 < cpu:
            continue
        free = cards[node]
        if gpu >= _GRAIN:
            whole = [place for place, left in enumerate(free) if left == _GRAIN]
            if gpu % _GRAIN or len(whole) < gpu // _GRAIN:
                continue
            for place in whole[: gpu // _GRAIN]:
                free[place] = 0
        elif gpu:
            fitting = [place for place, left in enumerate(free) if left >= gpu]
            if not fitting:
                continue
            free[min(fitting, key=lambda place: free[place])] -= gpu
        cpus[node] -= cpu
        return True
    return False


def check_room(stage: str, config: StageConfig, nodes: Sequence[Node]) -> None:
    """Raises: UserError where the stage cannot sit together with its workers and engines: Ray would
    wait for ever."""
    wanted = seats(config)
    without = room(nodes, wanted)
    if without is None:
        return
    has = "; ".join(f"{node.cpus:g} CPUs and {node.cards} GPUs" for node in nodes)
    raise UserError(
        f"stage {stage!r} asks for {_asks(wanted)}, and the cluster has no room for the {without.who} "
        f"(nodes: {has}); {_mend(stage, without)}"
    )


def _mend(stage: str, seat: Seat) -> str:
    if seat.who == "stage":
        return f"lower stages.{stage}.cpus and gpus, or raise cluster.num_cpus"
    if seat.who == "workers":
        return f"lower stages.{stage}.distributed.workers, or add nodes"
    return (
        f"lower stages.{stage}.engine.replicas or its gpus, or leave gpus out of the stage and its "
        "engine: they then share what is there"
    )


def _asks(wanted: Sequence[Seat]) -> str:
    parts = []
    for seat in wanted:
        if seat.gpus or seat.cpus:
            times = f"{seat.copies} x " if seat.copies > 1 else ""
            parts.append(f"{times}({seat.who}: {seat.cpus:g} CPUs, {seat.gpus or 0:g} GPUs)")
    return " + ".join(parts)


def lines(config: StageConfig) -> tuple[str, ...]:
    """Who of the stage sits where, for the plan; nothing where all are on the CPU."""
    found = seats(config)
    if not any(seat.gpus for seat in found):
        return ()
    if takes_turns(config):
        own, each, _ = memory_shares(config)
        sleeping = f"each engine {each:.0%}" if found[1].copies > 1 else f"engine {each:.0%}"
        return (f"on: one card in turns: stage {own:.0%} of its memory, then {sleeping}",)
    return ("on: " + "; ".join(_words(seat) for seat in found if seat.gpus or seat.cpus),)


def _words(seat: Seat) -> str:
    who = seat.who if seat.copies == 1 else f"{seat.copies} {seat.who.removesuffix('s')}s"
    if not seat.gpus:
        return f"{who}: CPU"
    share = f"{seat.gpus:g} card{'s' if seat.gpus > 1 else ''}"
    return f"{who}: {share if seat.gpus >= 1 else f'{seat.gpus:.0%} of a card'}"


def check_one_process(recipe: Recipe, stages: Iterable[str]) -> bool:
    """For backend local, where all stages share this process: whether they see its cards.

    Raises: UserError where some may and others may not.
    """
    on = {name: bool(recipe.stages[name].reserved[1]) for name in stages}
    on |= {n: True for n in on if any(s.gpus for s in seats(recipe.stages[n])[1:])}
    computing = [n for n in on if registry.kind(recipe.stages[n].kind).on_card or on[n]]
    seeing = [name for name in computing if on[name]]
    if seeing and len(seeing) < len(computing):
        blind = next(name for name in computing if not on[name])
        raise UserError(
            f"cluster.backend is local: stages {seeing[0]!r} (with a card) and {blind!r} (gpus: 0) "
            "share one process, which sees the cards or does not; use backend: ray, or one of the two"
        )
    return bool(seeing)


def hide_cards() -> None:
    """Hide this process's cards from what it has not started yet: torch, vLLM and their children."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
