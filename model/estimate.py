"""From a stage's loads to memory, FLOPs and time on stated hardware. No torch."""

from dataclasses import asdict, dataclass
from typing import Any

from model import cost
from model.sizes import GIB, Shape, kv_cache_bytes, parameters, state_bytes
from workbench.load import GenerationLoad, TrainingLoad


@dataclass(frozen=True)
class Hardware:
    """One device. flops: dense bf16 peak a second. bandwidth: bytes a second. memory in bytes.

    mfu: share of the peak that training reaches. mbu: share of the bandwidth that decoding
    reaches. Both are assumptions of ours, to be replaced (--mfu, --mbu) by measured ones.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    mfu: float = 0.35
    mbu: float = 0.5


# GPUs: the vendors' data sheets, without sparsity; the A10G's memory is the paper's (22.06 GiB).
# cpu: one fp32 thread of the machine of docs/LOG.md, set so that the miniature trains at the 3,600
# to 4,900 tokens/s read there; decoding on it is bound by overhead and not estimated.
HARDWARE = {
    h.name: h
    for h in (
        Hardware("h100", 989e12, 80e9, 3.35e12),
        Hardware("h200", 989e12, 141e9, 4.8e12),
        Hardware("b200", 2250e12, 180e9, 7.7e12),
        Hardware("a100", 312e12, 80e9, 2.0e12),
        Hardware("a10g", 70e12, 22.06 * GIB, 600e9),
        Hardware("cpu", 50e9, 24 * GIB, 10e9, mfu=0.7),
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
        "seconds": flops / (hardware.flops * hardware.mfu * load.workers),
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
