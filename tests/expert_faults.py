"""Ways in which a sync of adapters beside experts goes wrong, each to be undone: `adapter_faults` in Granite 4 with
experts.

`UNREAD`: what becomes of experts and routers while the engine loads. It keeps them in a form of its own, which
nothing reads back, so the probes alone can notice. `RUNNING`: every weight is right, and the engine computes
something else with them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch

from tests import adapter_faults, sync_faults
from tests.adapter_faults import Names, rewritten, trainers
from tests.sync_faults import exchanged, flip_bit, layer, on, replaced, stopped, swap_rows

LAYER, OTHER = "model.layers.0.", "model.layers.1."
GRANITE = Names(
    mamba=f"{LAYER}mamba.", attention=f"{OTHER}self_attn.",
    twins=(f"{LAYER}shared_mlp.input_linear", f"{OTHER}shared_mlp.input_linear"),
    up=f"{LAYER}shared_mlp.output_linear", feed_forward=f"{OTHER}shared_mlp.", other=OTHER,
    embedding="model.embed_tokens.weight", norms=(f"{OTHER}input_layernorm.weight", "model.norm.weight"),
)  # fmt: skip
EXPERTS = f"{LAYER}block_sparse_moe."
IN, OUT = f"{EXPERTS}input_linear.weight", f"{EXPERTS}output_linear.weight"
ROUTER = f"{EXPERTS}router.layer.weight"

SENT, LOADED = adapter_faults.sent(GRANITE), adapter_faults.loaded(GRANITE)
LIVE = adapter_faults.live(GRANITE)
BASE: dict[str, Any] = adapter_faults.base(GRANITE) | {
    "one bit of the trainer's experts": trainers(f"{EXPERTS}experts.down_proj"),
    "one bit of the trainer's router": trainers(f"{EXPERTS}router.weight"),
    "one bit of the experts in the file": rewritten(on(IN, flip_bit)),
    "two experts exchanged in the file": rewritten(on(OUT, swap_rows)),
}


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The change of one expert of all."""
    return lambda t: torch.cat([change(t[:1]), t[1:]])


def both(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return lambda new, old: {**new, IN: change(new[IN]), OUT: change(new[OUT])}


UNREAD: dict[str, Any] = {
    "an expert's first matrix is zeroed": on(IN, first(torch.zeros_like)),
    "an expert's second matrix is zeroed": on(OUT, first(torch.zeros_like)),
    "two experts' first matrices are exchanged": on(IN, swap_rows),
    "two experts are exchanged": both(swap_rows),
    "an expert's gate and up are exchanged": on(IN, first(lambda t: t.roll(t.shape[1] // 2, 1))),
    "an expert's rows are rolled by one": on(OUT, first(lambda t: t.roll(1, 1))),
    "an expert's sign": on(OUT, first(lambda t: -t)),
    "experts of two layers are exchanged": exchanged(IN, IN.replace(LAYER, OTHER)),
    "an expert is the next one": both(lambda t: t.roll(1, 0)),
    "two rows of the router are swapped": on(ROUTER, swap_rows),
    "the router is zeroed": on(ROUTER, torch.zeros_like),
    "routers of two layers are exchanged": exchanged(ROUTER, ROUTER.replace(LAYER, OTHER)),
}


@contextlib.contextmanager
def unpacked(engine: Any) -> Iterator[None]:
    """As vLLM 0.32 leaves them after a reload on a CPU."""
    with patch("engine.vllm_engine.forget_expert_kernels", lambda model: None):
        yield


def decoder(engine: Any, number: int = 0) -> Any:
    return engine.live_model().model.layers[number]


def routed(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The router's logits are others."""

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        gate = decoder(engine).block_sparse_moe.gate
        hook = gate.register_forward_hook(lambda m, args, out: (change(out[0].clone()), *out[1:]))
        try:
            yield
        finally:
            hook.remove()

    return fault


def unchosen(logits: torch.Tensor) -> torch.Tensor:
    logits[:, 0] = -1e4
    return logits


_OF_THE_MAMBA_LAYER = (
    "stale SSM states", "stale convolution states", "stale keys and values",
    "prompts start from a used state", "the time step is clamped", "D left out of one-token steps",
    "another attention scale", "logits scaled",
)  # fmt: skip
RUNNING: dict[str, Any] = (
    {name: sync_faults.RUNNING[name] for name in _OF_THE_MAMBA_LAYER}
    | adapter_faults.MERGED
    | {
        "another epsilon in a norm": replaced(
            lambda e: decoder(e, 1).input_layernorm, "variance_epsilon", lambda e: e + 10
        ),
        "a layer that adds nothing": lambda e: stopped(layer(e, 1)),
        "shared experts add nothing": lambda e: stopped(decoder(e).shared_mlp),
        "routed experts add nothing": lambda e: stopped(decoder(e).block_sparse_moe),
        "experts stay unpacked": unpacked,
        "tokens go to the next expert": routed(lambda logits: logits.roll(1, -1)),
        "an expert that is never chosen": routed(unchosen),
        "experts weighed otherwise": routed(lambda logits: logits * 4),
    }
)
