"""How many tokens a second a card serves of a model, and of another beside it. Closed formulas; no torch.

A step of decoding reads all weights, and of each sequence its KV cache and its recurrent state, which is
written back; or it is bound by its FLOPs. Prompts are read at the peak's share of training. The batch is the
most that fits: what a hybrid saves is cache, and so its gain is batch before it is speed.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from model import cost
from model.estimate import Hardware
from model.sizes import GIB, Shape, kv_cache_bytes, parameters, state_bytes
from workbench.errors import UserError


@dataclass(frozen=True)
class Load:
    """What is asked: prompts and replies of so many tokens. most: sequences at once that an engine allows."""

    prompt_tokens: int
    new_tokens: int
    most: int = 512

    @property
    def longest(self) -> int:
        """Tokens of a finished sequence."""
        return self.prompt_tokens + self.new_tokens


PAPER_LOADS = (Load(1024, 8192), Load(8192, 16384))
"""Those of the paper's Figure 1, on one A10G."""


@dataclass(frozen=True)
class Assumed:
    """What is not known of an engine before it runs: shares of the card's memory and peaks, and what the
    framework holds. All are assumptions of ours."""

    memory: float = 0.95
    framework_bytes: float = 0.5 * GIB
    mbu: float = 0.6
    mfu: float = 0.5


class ServingRate(NamedTuple):
    """sequences: at once. rate: output tokens a second of all of them, prompts read in between."""

    sequences: int
    rate: float
    step_s: float


def served(
    s: Shape, hardware: Hardware, load: Load, assumed: Assumed = Assumed(), *, size: int = 2
) -> ServingRate:
    """The most sequences that fit, and what they make. size: bytes of a weight.

    Raises: UserError where not even one sequence fits.
    """
    weights = parameters(s) * size
    room = hardware.memory * assumed.memory - assumed.framework_bytes - weights
    each = kv_cache_bytes(s, load.longest, bytes_per_value=size) + state_bytes(s, conv_bytes=size)
    batch = min(int(room // each), load.most)
    if batch < 1:
        raise UserError(
            f"one sequence of {load.longest:,} tokens needs {(weights + each) / GIB:.2f} GiB, and "
            f"{hardware.name} leaves {(room + weights) / GIB:.2f}: take a larger card or shorter replies"
        )
    return served_at(s, hardware, load, batch, assumed, size=size)


def served_at(
    s: Shape, hardware: Hardware, load: Load, batch: int, assumed: Assumed = Assumed(), *,
    size: int = 2,
) -> ServingRate:  # fmt: skip
    """What a batch of this many sequences makes, whether it fits or not."""
    half = load.prompt_tokens + load.new_tokens // 2
    peak = hardware.flops * assumed.mfu
    bandwidth = hardware.bandwidth * assumed.mbu
    cache = kv_cache_bytes(s, half, bytes_per_value=size)
    decoded = cost.decode_step(s, half, cache=cache, bandwidth=bandwidth, flops=peak, size=size)
    step = decoded.seconds(batch)
    prompts = batch * load.prompt_tokens * cost.forward_flops(s, load.prompt_tokens) / peak
    total = load.new_tokens * step + prompts
    return ServingRate(batch, batch * load.new_tokens / total, step)


class BreakEven(NamedTuple):
    """Tokens of a sequence from which one model has less than the other: memory held, bytes moved a step;
    None where it never has."""

    memory: float | None
    traffic: float | None


def break_even(s: Shape, other: Shape, *, size: int = 2) -> BreakEven:
    """From which length the state of `s` is smaller than the cache of `other`."""
    kv = [kv_cache_bytes(x, 1, bytes_per_value=size) for x in (s, other)]
    state = [state_bytes(x, conv_bytes=size) for x in (s, other)]
    if kv[1] <= kv[0]:
        return BreakEven(None, None)
    held = (state[0] - state[1]) / (kv[1] - kv[0])
    return BreakEven(max(held, 0.0), max(2 * held, 0.0))


def compare(
    names: tuple[str, str], shapes: tuple[Shape, Shape], hardware: Hardware,
    loads: tuple[Load, ...] = PAPER_LOADS, assumed: Assumed = Assumed(), *, size: int = 2,
) -> list[str]:  # fmt: skip
    """Lines of a table: batch, tokens a second and their ratio by load; then what was assumed."""
    one, other = names
    lines = [
        f"{one} beside {other} on {hardware.name}: {hardware.memory / GIB:.2f} GiB, "
        f"{hardware.bandwidth / 1e9:,.0f} GB/s, the batch that fits",
        "prompt/reply       sequences      output tokens/s    ratio",
    ]
    for load in loads:
        found = [_or_none(s, hardware, load, assumed, size) for s in shapes]
        label = f"{load.prompt_tokens:,}/{load.new_tokens:,}"
        batch = " : ".join("-" if f is None else f"{f.sequences:,}" for f in found)
        rates = " : ".join("-" if f is None else f"{f.rate:,.0f}" for f in found)
        first, second = found
        ratio = "-" if first is None or second is None else f"{first.rate / second.rate:.2f}x"
        lines.append(f"{label:<16}{batch:>12}{rates:>21}{ratio:>9}")
    return [*lines, *_words(names, shapes, assumed, size)]


def _or_none(
    s: Shape, hardware: Hardware, load: Load, assumed: Assumed, size: int
) -> ServingRate | None:
    try:
        return served(s, hardware, load, assumed, size=size)
    except UserError:
        return None


def _words(
    names: tuple[str, str], shapes: tuple[Shape, Shape], assumed: Assumed, size: int
) -> list[str]:
    parts = [
        f"{name}: {parameters(s):,} parameters, {kv_cache_bytes(s, 1, bytes_per_value=size):,} bytes of cache a "
        f"token, {state_bytes(s, conv_bytes=size) / 1e6:,.1f} MB of state a sequence"
        for name, s in zip(names, shapes, strict=True)
    ]
    even = break_even(*shapes, size=size)
    if even.memory is not None and even.traffic is not None:
        parts.append(
            f"{names[0]} holds less from {even.memory:,.0f} tokens a sequence, and moves less from "
            f"{even.traffic:,.0f}"
        )
    parts.append(
        f"assumed: {100 * assumed.memory:g}% of the memory less {assumed.framework_bytes / GIB:g} GiB; "
        f"{100 * assumed.mbu:g}% of the bandwidth in decoding, {100 * assumed.mfu:g}% of the peak otherwise; "
        "-: not one sequence fits"
    )
    return parts


def with_shares(assumed: Assumed, *, mbu: float | None, mfu: float | None) -> Assumed:
    """The assumptions with shares that were measured."""
    given = {key: value for key, value in (("mbu", mbu), ("mfu", mfu)) if value is not None}
    return replace(assumed, **given)
