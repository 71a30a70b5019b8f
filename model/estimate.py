"""From a stage's loads to memory, FLOPs and time on stated hardware. No torch."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from model import cost
from model.sizes import GIB, Shape, kv_cache_bytes, parameters, state_bytes
from workbench.load import GenerationLoad, TrainingLoad


@dataclass(frozen=True)
class Hardware:
    """One device. flops: dense bf16 peak a second. bandwidth: bytes a second. memory in bytes.

    mfu: share of the peak that training reaches. mbu: share of the bandwidth that decoding
    reaches. fp8_gain: how much faster products in FP8 blocks are, their quantising included; None: the device
    has none. All are assumptions of ours, to be replaced (--mfu, --mbu) by measured ones.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    mfu: float = 0.35
    mbu: float = 0.5
    fp8_gain: float | None = None


# The peak doubles; steps of 8B to 405B models are published as 1.25 to 1.5 times faster (torchao). The
# emulation on a CPU makes a step 1.5 times slower (docs/fp8.md).
FP8_GAIN, FP8_EMULATED = 1.4, 0.67

# GPUs: the vendors' data sheets, without sparsity; the A10G's memory is the paper's (22.06 GiB).
# cpu: one fp32 thread of the machine of docs/LOG.md, set so that the miniature trains at the 3,600
# to 4,900 tokens/s read there; decoding on it is bound by overhead and not estimated.
HARDWARE = {
    h.name: h
    for h in (
        Hardware("h100", 989e12, 80e9, 3.35e12, fp8_gain=FP8_GAIN),
        Hardware("h200", 989e12, 141e9, 4.8e12, fp8_gain=FP8_GAIN),
        Hardware("b200", 2250e12, 180e9, 7.7e12),
        Hardware("a100", 312e12, 80e9, 2.0e12),
        Hardware("a100-40", 312e12, 40e9, 1.555e12),
        Hardware("rtx4090", 165.2e12, 24e9, 1.008e12),
        Hardware("a10g", 70e12, 22.06 * GIB, 600e9),
        Hardware("cpu", 50e9, 24 * GIB, 10e9, mfu=0.7, fp8_gain=FP8_EMULATED),
    )
}


def price(s: Shape, load: TrainingLoad | GenerationLoad, hardware: Hardware) -> dict[str, Any]:
    """Everything about one load as JSON-able figures; seconds are None where nothing is known."""
    if isinstance(load, TrainingLoad):
        return _training(s, load, hardware)
    return _generation(s, load, hardware)


def _training(s: Shape, load: TrainingLoad, hardware: Hardware) -> dict[str, Any]:
    memory = cost.training_memory(s, load)
    flops = cost.training_flops(s, load)
    share = cost.fp8_share(s, load) if load.precision == "fp8" else 0.0
    runs = hardware.fp8_gain is not None or not share
    slowed = 1 - share + share / (hardware.fp8_gain or 1.0)
    return {
        "what": "training",
        **asdict(load),
        "trained_parameters": (
            cost.lora_parameters(s, load.lora_rank) if load.lora_rank else parameters(s)
        ),
        "memory": {**memory._asdict(), "device_bytes": memory.device_bytes},
        "fits": memory.device_bytes <= hardware.memory,
        "flops": flops,
        "model_flops_6nd": 6 * parameters(s) * load.tokens,
        "fp8_share": share,
        "runs": runs,
        "seconds": slowed * flops / (hardware.flops * hardware.mfu * load.workers),
    }


def _generation(s: Shape, load: GenerationLoad, hardware: Hardware) -> dict[str, Any]:
    """Decoding reads all weights, and each sequence's cache, once a token (memory bound), or does
    its FLOPs (compute bound): the slower counts. Prefill is not counted."""
    size = 2 if load.dtype == "bfloat16" else 4
    weights = parameters(s) * size
    kv = load.sequences * kv_cache_bytes(s, load.context_tokens, bytes_per_value=size)
    state = load.sequences * state_bytes(s, conv_bytes=size)
    read = weights + kv / 2 + 2 * state  # half-full on average; states are read and written
    step_s = max(
        read / (hardware.bandwidth * hardware.mbu),
        load.sequences * cost.forward_flops(s, load.context_tokens) / hardware.flops / hardware.mfu,
    )
    engine_gpus = max(load.gpus or 0.0, 1)
    rate = load.sequences / step_s * engine_gpus * load.engines
    total = weights + kv + state
    return {
        "what": "generation",
        **asdict(load),
        "memory": {
            "weights": weights,
            "kv_cache": kv,
            "state": state,
            "device_bytes": round(total / engine_gpus),
        },
        "fits": total / engine_gpus <= hardware.memory,
        "flops": cost.forward_flops(s, load.context_tokens / 2) * load.tokens,
        "seconds": None if hardware.name == "cpu" else load.tokens / rate,
    }


CARDS = (24, 40, 80, 141)
"""Memory of the cards that people have, in GB."""
_USABLE = 0.9
_LORA_RANK = 16


def fits(s: Shape, loads: Sequence[TrainingLoad | GenerationLoad], keys: Collection[str]) -> str:
    """Which single cards hold the stage, and which of its keys to change for a smaller one.

    keys: the recipe's keys that the stage has. A training beside an engine shares the card with it.
    """
    if any(isinstance(load, TrainingLoad) and load.workers > 1 for load in loads) or not loads:
        return ""
    words = list[str]()
    for card in CARDS:
        room = card * 1e9 * _USABLE
        if _bytes(s, loads) <= room:
            return "; ".join([*words, f"fits {card} GB ({_bytes(s, loads) / GIB:.1f} GiB)"])
        change = next(
            (c for c, less in _changes(loads, keys) if _bytes(s, less) <= room),
            "no key makes it fit",
        )
        words.append(f"{card} GB: {change}")
    return "; ".join(words)


def _bytes(s: Shape, loads: Sequence[TrainingLoad | GenerationLoad]) -> float:
    held = {TrainingLoad: 0.0, GenerationLoad: 0.0}
    for load in loads:
        priced = price(s, load, HARDWARE["h100"])["memory"]["device_bytes"]
        held[type(load)] = max(held[type(load)], priced)
    return sum(held.values())


def _changes(
    loads: Sequence[TrainingLoad | GenerationLoad], keys: Collection[str]
) -> Iterator[tuple[str, list[TrainingLoad | GenerationLoad]]]:
    """What a recipe may say to need less, from the mildest on, each with those before it."""
    now, said = list(loads), list[str]()

    def training(**changes: Any) -> list[TrainingLoad | GenerationLoad]:
        return [replace(one, **changes) if isinstance(one, TrainingLoad) else one for one in now]

    trains = [load for load in loads if isinstance(load, TrainingLoad)]
    options: list[tuple[str, str, dict[str, Any], bool]] = [
        ("precision", "precision: bf16", {"precision": "bf16"}, any(t.precision == "fp32" for t in trains)),
        ("activations", "activations: checkpoint", {"activations": "checkpoint"}, any(t.activations == "keep" for t in trains)),
        ("lora", f"lora: {{rank: {_LORA_RANK}, base: bfloat16}}", {"lora_rank": _LORA_RANK, "base": "bfloat16"}, any(t.base != "bfloat16" or not t.lora_rank for t in trains)),
    ]  # fmt: skip
    for key, words, changes, helps in options:
        if key in keys and helps:
            now = training(**changes)
            said.append(words)
            yield ", ".join(said), now
    if any(isinstance(load, GenerationLoad) for load in now):
        now = [
            replace(one, dtype="bfloat16", sequences=max(one.sequences // 8, 1))
            if isinstance(one, GenerationLoad) else one for one in now
        ]  # fmt: skip
        said.append("engine: {dtype: bfloat16, max_num_seqs: an eighth}")
        yield ", ".join(said), now
    for part in (2, 4, 8, 16):
        tokens = trains[0].row_tokens // part if trains else 0
        key = "microbatch_tokens" if "microbatch_tokens" in keys else "row_tokens"
        if tokens and key in keys:
            yield ", ".join([*said, f"{key}: {tokens}"]), training(row_tokens=tokens)
