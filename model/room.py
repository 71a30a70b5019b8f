"""Whether a stage's loads fit the shares of a card that they get, and which keys of its recipe make them fit.

No torch.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from model.cost import Frozen, scoring_memory, training_memory
from model.sizes import GIB, Shape, kv_cache_bytes, parameters, state_bytes
from workbench.errors import UserError
from workbench.load import GenerationLoad, ScoringLoad, TrainingLoad
from workbench.placement import MemoryShares

Load = TrainingLoad | GenerationLoad | ScoringLoad
CARDS = (24, 40, 80, 141)
"""Memory of the cards that people have, in GB."""
_USABLE = 0.9
WHOLE = MemoryShares(1.0, 1.0)
"""Of a stage that trains or asks alone."""
_LORA_RANK = 16
# What a card holds of an engine that sleeps and of CUDA's contexts, its own and the trainer's: assumptions that
# no card of ours has confirmed (docs/gpu.md).
_ASLEEP, _CONTEXTS = 2 * GIB, 1 * GIB
# Bytes for each logit that vLLM 0.32 warms its sampler up with, once for every sequence it could hold: logits in
# bf16 and fp32, their log-probabilities, probabilities and noise.
_SAMPLER_BYTES = 2 + 4 + 4 + 4 + 4


class Need(NamedTuple):
    """What one of a stage's processes needs of a card and what it may have, in bytes."""

    what: str
    needed: float
    allowed: float


@dataclass(frozen=True)
class Seated:
    """A stage's loads, the models beside each, and the shares of one card's memory that they get.

    keys: the recipe's keys that the stage has. in_turns: the keys to change so that trainer and engine take
    turns, and the shares that they then get; None where none does it, or they do.
    """

    shape: Shape
    loads: Sequence[Load]
    frozen: Sequence[Frozen] = ()
    shares: MemoryShares = WHOLE
    keys: Collection[str] = ()
    in_turns: tuple[str, MemoryShares] | None = None

    def needs(self, card: float, *, least: bool = False) -> list[Need]:
        """Of a card of so many bytes. least: an engine of one sequence at a time, which is slow and runs."""
        found = list[Need]()
        for load, beside in zip(self.loads, self.frozen or [()] * len(self.loads), strict=True):
            if isinstance(load, GenerationLoad):
                asked = replace(load, sequences=1) if least else load
                needed = generation_bytes(self.shape, asked) / max(load.gpus or 0.0, 1)
                found.append(Need("engine", needed, self.shares.engine * card))
                continue
            if isinstance(load, TrainingLoad):
                needed = training_memory(self.shape, load, beside, card=card).device_bytes
            else:
                needed = scoring_memory(self.shape, load, card=card).device_bytes
            what = "training" if isinstance(load, TrainingLoad) else "scoring"
            found.append(Need(what, needed, min(self.shares.stage * card, card - self._kept())))
        return found

    def _kept(self) -> float:
        """Bytes of the card that engines which take turns with the stage keep in their sleep."""
        if not self.shares.turns:
            return 0.0
        asleep = [load for load in self.loads if isinstance(load, GenerationLoad)]
        return _CONTEXTS + sum(load.engines * asleep_bytes(self.shape, load) for load in asleep)

    def short(self, card: float, *, least: bool = False) -> Need | None:
        """The first that gets less than it needs; None where all fit."""
        return next((n for n in self.needs(card, least=least) if n.needed > n.allowed), None)

    def change(self, card: float, *, least: bool = False) -> str | None:
        """The mildest change of keys with which all fit; None where there is none."""
        tried = _changes(self)
        return next((c for c, less in tried if less.short(card, least=least) is None), None)


def generation_bytes(s: Shape, load: GenerationLoad) -> float:
    """Weights, caches and states of an engine."""
    size = 2 if load.dtype == "bfloat16" else 4
    a_sequence = kv_cache_bytes(s, load.context_tokens, bytes_per_value=size)
    a_sequence += state_bytes(s, conv_bytes=size)
    return size * parameters(s) + load.sequences * a_sequence


def asleep_bytes(s: Shape, load: GenerationLoad) -> float:
    """What an engine that sleeps keeps of its card: an assumed part, and the sampler's buffers."""
    return _ASLEEP + max(load.seats, load.sequences) * s.vocab_size * _SAMPLER_BYTES


def check(stage: str, seated: Seated, card: float) -> None:
    """Raises: UserError, before anything is loaded, where a load of the stage needs more of a card of so many
    bytes than it gets."""
    need = seated.short(card, least=True)
    if need is None:
        return
    share = f"{need.allowed / card:.0%} of " if need.allowed < card else ""
    change = seated.change(card, least=True)
    mend = (
        f"change {change} (in stages.{stage})"
        if change
        else "no key makes it fit; take a larger card"
    )
    raise UserError(
        f"stage {stage!r}: its {need.what} needs {need.needed / GIB:.1f} of {need.allowed / GIB:.1f} GiB "
        f"({share}a card of {card / GIB:.1f}); {mend}"
    )


def fits(seated: Seated) -> str:
    """Which single cards hold the stage, and which of its keys to change for a smaller one. A process with a
    whole card fills nine tenths of it."""
    loads = seated.loads
    if any(isinstance(load, TrainingLoad) and load.workers > 1 for load in loads) or not loads:
        return ""
    stage, engine, turns = seated.shares
    spared = MemoryShares(min(stage or 1.0, _USABLE), min(engine or 1.0, _USABLE), turns)
    seated = replace(seated, shares=spared)
    words = list[str]()
    for gb in CARDS:
        if seated.short(gb * 1e9) is None:
            return "; ".join([*words, f"fits {gb} GB ({_held(seated, gb * 1e9) / GIB:.1f} GiB)"])
        words.append(f"{gb} GB: {seated.change(gb * 1e9) or 'no key makes it fit'}")
    return "; ".join(words)


def _held(seated: Seated, card: float) -> float:
    """Bytes at once: of a trainer and an engine that take turns those of the larger."""
    most = dict[str, float]()
    for what, needed, _ in seated.needs(card):
        kind = "engine" if what == "engine" else "stage"
        most[kind] = max(most.get(kind, 0.0), needed)
    return max(most.values()) if seated.shares.turns else sum(most.values())


def _changes(seated: Seated) -> Iterator[tuple[str, Seated]]:
    """What a recipe may say to need less, from the mildest on, each with those before it."""
    now, said = seated, list[str]()

    def training(**changes: Any) -> Seated:
        loads = [
            replace(one, **changes) if isinstance(one, TrainingLoad) else one for one in now.loads
        ]
        return replace(now, loads=loads)

    trains = [load for load in seated.loads if isinstance(load, TrainingLoad)]
    asks = [load for load in seated.loads if isinstance(load, GenerationLoad)]
    options: list[tuple[str, str, dict[str, Any], bool]] = [
        ("precision", "precision: bf16", {"precision": "bf16"}, any(t.precision == "fp32" for t in trains)),
        ("activations", "activations: checkpoint", {"activations": "checkpoint"}, any(t.activations == "keep" for t in trains)),
        *(
            ("lora", f"lora: {{rank: {_LORA_RANK}, base: {base}}}", {"lora_rank": _LORA_RANK, "base": base}, any(t.base not in (base, "nf4") or not t.lora_rank for t in trains))
            for base in ("bfloat16", "nf4")
        ),
    ]  # fmt: skip
    if trains and asks and seated.in_turns is not None:
        words, shares = seated.in_turns
        said.append(words)
        now = replace(now, shares=shares)
        yield words, now
    for key, words, changes, helps in options:
        if key in seated.keys and helps:
            now = training(**changes)
            said = [*(one for one in said if not one.startswith(f"{key}:")), words]
            yield ", ".join(said), now
    if asks:
        smaller = [
            replace(one, dtype="bfloat16", sequences=max(one.sequences // 8, 1), seats=one.seats // 8)
            if isinstance(one, GenerationLoad) else one for one in now.loads
        ]  # fmt: skip
        now = replace(now, loads=smaller)
        of_type = "" if all(a.dtype == "bfloat16" for a in asks) else "dtype: bfloat16, "
        said.append(f"engine: {{{of_type}max_num_seqs: an eighth}}")
        yield ", ".join(said), now
    for part in (2, 4, 8, 16):
        tokens = trains[0].row_tokens // part if trains else 0
        key = "microbatch_tokens" if "microbatch_tokens" in seated.keys else "row_tokens"
        if tokens and key in seated.keys:
            yield ", ".join([*said, f"{key}: {tokens}"]), training(row_tokens=tokens)
