"""What a machine's own memory and its disk hold of a training, by closed formula. No torch."""

from typing import NamedTuple

from model.cost import Frozen, held_bytes, lora_parameters, training_memory
from model.sizes import Shape, parameters
from workbench.load import GenerationLoad, TrainingLoad

# Assumptions of ours: Python, torch, CUDA and NCCL of one process; the same with vLLM.
PROCESS_BYTES, ENGINE_BYTES = 4e9, 6e9


class HostMemory(NamedTuple):
    """Bytes of one machine. processes: of the programs. offloaded: layers' inputs (activations: offload), or
    what waits while others have the card. saving: the state's copy while a checkpoint is written. sent: weights on their way to engines."""

    processes: float
    offloaded: float
    saving: float
    sent: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class CheckpointBytes(NamedTuple):
    """each: bytes of one checkpoint. on_disk: those kept, one being written, and the model. every: steps."""

    each: float
    on_disk: float
    every: int


def training_host(
    s: Shape, load: TrainingLoad, cards: int, frozen: Frozen = (), *, turns: bool = False
) -> HostMemory:
    """Of a machine with so many cards, a process each. turns: weights, gradients, moments and the models beside
    them wait on the host while an engine has the card.

    Checkpoints of sharded states are written from a copy on the host while the training goes on. Weights
    for engines, of adapters those alone, are a share of each process, and once more in Ray's object store.
    """
    here = min(load.workers, cards)
    memory = training_memory(s, load, frozen)
    waiting = memory.weights + memory.gradients + memory.optimizer + memory.beside
    offloaded = max(memory.host, waiting if turns else 0)
    saving = checkpoint_bytes(s, load) / load.shards if load.strategy == "fsdp" else 0.0
    sent = 2 * sent_bytes(s, load.lora_rank) / load.workers if load.published else 0.0
    return HostMemory(here * PROCESS_BYTES, here * offloaded, here * saving, here * sent)


def generation_host(s: Shape, load: GenerationLoad, cards: int) -> HostMemory:
    """Of a machine full of engines. Sent weights lie once in the machine's object store, in fp32; adapters are
    merged tensor by tensor, into pages of the checkpoint's file that the system can drop. An engine of several
    cards hands each of its workers all weights in one message, which it has merged whole before that.
    """
    here = max(min(load.engines, int(cards / max(load.gpus or 0.0, 1e-9))), 1)
    weights = parameters(s) * (2 if load.dtype == "bfloat16" else 4)
    return HostMemory(
        processes=here * ENGINE_BYTES,
        offloaded=here * weights if load.sleep else 0.0,
        saving=0.0,
        sent=sent_bytes(s, load.lora_rank) + here * _handed_out(s, load) if load.published else 0.0,
    )


def _handed_out(s: Shape, load: GenerationLoad) -> float:
    """What an engine that spans cards and its workers hold of weights on their way, at most."""
    workers = int(load.gpus or 0)
    if workers < 2:
        return 0.0
    return 4.0 * parameters(s) * (workers + (load.lora_rank is not None))


def sent_bytes(s: Shape, lora_rank: int | None) -> float:
    """What a weight sync sends: all weights in fp32, or the adapters."""
    if lora_rank is None:
        return 4.0 * parameters(s)
    return 4.0 * lora_parameters(s, lora_rank)


def checkpoint_bytes(s: Shape, load: TrainingLoad) -> float:
    """Weights and Adam's two moments in fp32; with adapters those of the adapters alone."""
    trained = lora_parameters(s, load.lora_rank) if load.lora_rank else parameters(s)
    return 12.0 * trained


def checkpoints(s: Shape, load: TrainingLoad) -> CheckpointBytes:
    """What lies on the disk, with the plain model at the end, in the type of its base. Engines that merge
    adapters read what 4 bits stand for from files of the stage's own."""
    each, every = checkpoint_bytes(s, load), load.checkpoint_every_steps
    # Those kept and one being written, or as many as there are times to write one.
    kept = min(load.keep_checkpoints + 1, -(-load.steps // every)) * each if every else 0.0
    model = held_bytes("float32" if load.base == "float32" else "bfloat16") * float(parameters(s))
    models = load.models + (load.base == "nf4" and load.published)
    return CheckpointBytes(each, kept + models * model, every)
