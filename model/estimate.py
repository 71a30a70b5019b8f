"""From a stage's loads to memory, FLOPs and time on stated hardware. No torch."""

from dataclasses import asdict, dataclass
from typing import Any

from model import cost
from model.communication import Communication, communication
from model.cost import Frozen
from model.host import CheckpointBytes, HostMemory, checkpoints, generation_host, training_host
from model.sizes import GIB, Shape, kv_cache_bytes, parameters, state_bytes
from workbench.load import GenerationLoad, ScoringLoad, TrainingLoad

Load = TrainingLoad | GenerationLoad | ScoringLoad


@dataclass(frozen=True)
class Hardware:
    """One device. flops: dense bf16 peak a second. bandwidth: bytes a second. memory in bytes.

    mfu: share of the peak that training reaches. mbu: share of the bandwidth that decoding
    reaches. fp8_gain: how much faster products in FP8 blocks are, their quantising included; None: the device
    has none. All are assumptions of ours, to be replaced (--mfu, --mbu) by measured ones.

    cards: of one machine. link, network: bytes a second that a card sends to others of its machine, and to
    other machines; link_share of them is reached. host: a machine's own memory. disk: bytes a second that a
    machine writes. Assumptions too (--network, --disk).
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    mfu: float = 0.35
    mbu: float = 0.5
    fp8_gain: float | None = None
    link: float = 25e9
    network: float = 3e9
    link_share: float = 0.7
    host: float = 64e9
    disk: float = 2e9
    cards: int = 1

    @property
    def card(self) -> float | None:
        """Bytes of a card's memory; None: it is no card."""
        return None if self.name == "cpu" else self.memory

    def seconds_of(self, sent: Communication, shards: int, workers: int) -> float:
        """Of what a process sends: within one machine by links, else by the network."""
        state = self.link if shards <= self.cards else self.network
        copies = self.link if workers <= self.cards else self.network
        rows = self.link  # those that share a row are on one machine
        seconds = sent.state / state + sent.copies / copies + sent.rows / rows
        return seconds / self.link_share


# The peak doubles; steps of 8B to 405B models are published as 1.25 to 1.5 times faster (torchao). The
# emulation on a CPU makes a step 1.5 times slower (docs/fp8.md).
FP8_GAIN, FP8_EMULATED = 1.4, 0.67

# GPUs: the vendors' data sheets, without sparsity; the A10G's memory is the paper's (22.06 GiB).
# cpu: one fp32 thread of the machine of docs/LOG.md, set so that the miniature trains at the 3,600
# to 4,900 tokens/s read there; decoding on it is bound by overhead and not estimated.
# Links of machines of eight: NVLink's data sheets, one way; a network card of 400 Gbit/s (a100: 200) each, as
# the vendor's own machines have; their memory; a disk of 5 GB/s. One card alone: PCIe, 25 Gbit/s, 64 GB.
_EIGHT: dict[str, Any] = {"network": 50e9, "host": 2e12, "disk": 5e9, "cards": 8}
HARDWARE = {
    h.name: h
    for h in (
        Hardware("h100", 989e12, 80e9, 3.35e12, fp8_gain=FP8_GAIN, link=450e9, **_EIGHT),
        Hardware("h200", 989e12, 141e9, 4.8e12, fp8_gain=FP8_GAIN, link=450e9, **_EIGHT),
        Hardware("b200", 2250e12, 180e9, 7.7e12, link=900e9, **_EIGHT),
        Hardware("a100", 312e12, 80e9, 2.0e12, link=300e9, **{**_EIGHT, "network": 25e9}),
        Hardware("a100-40", 312e12, 40e9, 1.555e12, link=300e9, **{**_EIGHT, "network": 25e9}),
        Hardware("rtx4090", 165.2e12, 24e9, 1.008e12),
        Hardware("a10g", 70e12, 22.06 * GIB, 600e9),
        Hardware("cpu", 50e9, 24 * GIB, 10e9, mfu=0.7, fp8_gain=FP8_EMULATED, host=24 * GIB),
    )
}


def price(
    s: Shape, load: Load, hardware: Hardware, frozen: Frozen = (), *, turns: bool = False
) -> dict[str, Any]:
    """Everything about one load as JSON-able figures; seconds are None where nothing is known.

    frozen: the models of `load.beside`, with their shapes. turns: trainer and engine have one card in turns.
    """
    if isinstance(load, TrainingLoad):
        return _training(s, load, hardware, frozen, turns)
    if isinstance(load, ScoringLoad):
        return _scoring(s, load, hardware)
    return _generation(s, load, hardware)


def _scoring(s: Shape, load: ScoringLoad, hardware: Hardware) -> dict[str, Any]:
    """Forward passes. In fp32 a card's speed is not the one that is stated, so no time is estimated."""
    memory = cost.scoring_memory(s, load, card=hardware.card)
    flops = cost.forward_flops(s, load.row_tokens) * load.tokens
    in_half = load.dtype == "bfloat16" or hardware.name == "cpu"
    return {
        "what": "scoring",
        **asdict(load),
        "memory": {**memory._asdict(), "device_bytes": memory.device_bytes},
        "fits": memory.device_bytes <= hardware.memory,
        "flops": flops,
        "seconds": flops / (hardware.flops * hardware.mfu) if in_half else None,
    }


def _training(
    s: Shape, load: TrainingLoad, hardware: Hardware, frozen: Frozen, turns: bool
) -> dict[str, Any]:  # fmt: skip
    memory = cost.training_memory(s, load, frozen, card=hardware.card)
    flops = cost.training_flops(s, load, frozen)
    share = cost.fp8_share(s, load) if load.precision == "fp8" else 0.0
    runs = hardware.fp8_gain is not None or not share
    slowed = 1 - share + share / (hardware.fp8_gain or 1.0)
    computed = slowed * flops / (hardware.flops * hardware.mfu * load.workers)
    sent = communication(s, load, frozen)
    moved = _moved(load, sent, hardware, computed / load.steps)
    host = training_host(s, load, hardware.cards, frozen, turns=turns)
    return {
        "what": "training",
        **asdict(load),
        "steps": load.steps,
        "trained_parameters": (
            cost.lora_parameters(s, load.lora_rank) if load.lora_rank else parameters(s)
        ),
        "memory": {**memory._asdict(), "device_bytes": memory.device_bytes},
        "fits": memory.device_bytes <= hardware.memory,
        "flops": flops,
        "model_flops_6nd": 6 * parameters(s) * load.tokens,
        "fp8_share": share,
        "runs": runs,
        "seconds": load.steps * moved["step_s"],
        "communication": moved,
        "host": _host(host, hardware),
        "checkpoints": _saved(checkpoints(s, load), load, hardware, moved["step_s"]),
    }


def _moved(
    load: TrainingLoad, sent: Communication, hardware: Hardware, computed_s: float
) -> dict[str, float]:
    """What a step sends and takes. Weights and gradients travel while layers are computed, so the longer of
    both counts; rows are waited for."""
    hidden = hardware.seconds_of(sent._replace(rows=0.0), load.shards, load.workers)
    waited = hardware.seconds_of(Communication(0.0, 0.0, sent.rows), load.shards, load.workers)
    return {
        **sent._asdict(),
        "bytes": sum(sent),
        "seconds": hidden + waited,
        "computed_s": computed_s,
        "step_s": max(computed_s, hidden) + waited,
    }


def _host(host: HostMemory, hardware: Hardware) -> dict[str, Any]:
    return {
        **host._asdict(),
        "total": host.total,
        "fits": hardware.name == "cpu" or host.total <= hardware.host,
    }


def _saved(
    found: CheckpointBytes, load: TrainingLoad, hardware: Hardware, step_s: float
) -> dict[str, float]:
    """A checkpoint's bytes and seconds, and how much of the time between two it takes. Every machine of a
    sharded training writes its own part."""
    writers = -(-load.workers // hardware.cards) if load.strategy == "fsdp" else 1
    seconds = found.each / (hardware.disk * writers)
    between = found.every * step_s
    return {
        **found._asdict(),
        "kept": load.keep_checkpoints,
        "seconds": seconds,
        "share": seconds / between if between else 0.0,
    }


def _generation(s: Shape, load: GenerationLoad, hardware: Hardware) -> dict[str, Any]:
    """Decoding, at caches that are half full on average. Prefill is not counted."""
    size = 2 if load.dtype == "bfloat16" else 4
    weights = parameters(s) * size
    kv = load.sequences * kv_cache_bytes(s, load.context_tokens, bytes_per_value=size)
    state = load.sequences * state_bytes(s, conv_bytes=size)
    step = cost.decode_step(
        s, load.context_tokens / 2, cache=kv / load.sequences / 2, size=size,
        bandwidth=hardware.bandwidth * hardware.mbu, flops=hardware.flops * hardware.mfu,
    )  # fmt: skip
    engine_gpus = max(load.gpus or 0.0, 1)
    rate = load.sequences / step.seconds(load.sequences) * engine_gpus * load.engines
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
        "flops": None
        if load.tokens is None
        else load.tokens * cost.forward_flops(s, load.context_tokens),
        "seconds": None if hardware.name == "cpu" or load.tokens is None else load.tokens / rate,
        "host": _host(generation_host(s, load, hardware.cards), hardware),
    }
