"""The parts of a simulated run on cards, by formula: nothing of them was measured. No torch."""

from dataclasses import replace
from typing import NamedTuple

from model import cost
from model.communication import communication
from model.estimate import Hardware
from model.host import sent_bytes
from model.sizes import Shape, kv_cache_bytes, parameters
from rl.simulation.fit import POLL_S
from rl.simulation.parts import Decoding, Lengths, Timing, TrainerGroup
from workbench.load import GenerationLoad, TrainingLoad

# Assumptions of ours: what one process copies, digests and checks of weights a second, and moves to the host.
COPY_BYTES_S, HOST_BYTES_S = 5e9, 20e9


class Loads(NamedTuple):
    """What a GRPO stage generates and trains, and on what. frozen: the models of the training's `beside`, with
    their shapes."""

    shape: Shape
    generation: GenerationLoad
    training: TrainingLoad
    hardware: Hardware
    frozen: cost.Frozen = ()


def timing(loads: Loads, lengths: Lengths, mean_reply: float) -> Timing:
    """Of the stage as its loads are laid out. mean_reply: tokens, for caches and attention."""
    s, _, training, hardware, _ = loads
    shards = training.shards
    state = cost.training_memory(s, training)
    touched = 2 * (state.weights + state.optimizer) + state.gradients  # read and written
    sent, held = sent_bytes(s, training.lora_rank), 4 * parameters(s)
    return Timing(
        decoding=decoding(loads, prompt=lengths.prompt, reply=mean_reply),
        training=_training(loads),
        # Each trainer gathers and puts its share of what is sent; an engine takes, or merges, all that it
        # holds, and both are checked.
        sync_s=sent / training.workers / COPY_BYTES_S + held / COPY_BYTES_S,
        save_s=12 * parameters(s) / shards / HOST_BYTES_S,
        poll_s=POLL_S,
        other_s=touched / (hardware.bandwidth * hardware.mbu),
    )


def decoding(loads: Loads, *, prompt: float, reply: float) -> Decoding:
    """An engine reads its weights once an iteration, and each sequence's cache; or it computes. prompt, reply:
    tokens, on average."""
    s, load, _, hardware, _ = loads
    cards = max(load.gpus or 0.0, 1.0)
    size = cost.held_bytes(load.dtype)
    half = prompt + reply / 2
    flops = hardware.flops * hardware.mfu * cards
    step = cost.decode_step(
        s, half, size=size, cache=kv_cache_bytes(s, round(half), bytes_per_value=size),
        bandwidth=hardware.bandwidth * hardware.mbu * cards, flops=flops,
    )  # fmt: skip
    # A prompt's token takes its FLOPs alone.
    prompt_s = cost.forward_flops(s, prompt) / flops
    return Decoding(step.weights, step.sequence, compute_s=step.compute, prompt_s=prompt_s)


def _training(loads: Loads) -> TrainerGroup:
    s, _, load, hardware, frozen = loads
    each = replace(load, step_tokens=load.microbatch_tokens)
    sent = communication(s, each, frozen)
    flops = cost.training_flops(s, replace(load, tokens=1), frozen)
    waited = hardware.seconds_of(
        sent._replace(state=0.0, copies=0.0), load.shards, load.workers
    ) / (load.row_tokens * load.microbatch_rows)
    return TrainerGroup(
        token_s=flops / (hardware.flops * hardware.mfu) / load.context + waited,
        gather_s=hardware.seconds_of(sent._replace(rows=0.0), load.shards, load.workers),
    )
