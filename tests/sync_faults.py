"""Ways in which weights go wrong between a trainer and a live vLLM engine, each to be undone.

`SENT`: on the way. `LOADED`: inside the engine while it loads. `RUNNING`: every weight is right, and the
engine computes something else with them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch

Tensors = dict[str, torch.Tensor]
LAYER, OTHER = "model.layers.0.", "model.layers.3."
D, A_LOG = f"{LAYER}mixer.D", f"{LAYER}mixer.A_log"
IN_PROJ, CONV = f"{LAYER}mixer.in_proj.weight", f"{LAYER}mixer.conv1d"
ATTENTION = "model.layers.1.mixer."
EMBEDDING, HEAD, NORM = "model.embeddings.weight", "lm_head.weight", "model.norm_f.weight"


def on(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return lambda new, old: {**new, name: change(new[name].clone())}


def without(*words: str) -> Any:
    return lambda new, old: {k: v for k, v in new.items() if not any(w in k for w in words)}


def stale(*words: str) -> Any:
    return lambda new, old: {k: old[k] if any(w in k for w in words) else v for k, v in new.items()}


def exchanged(one: str, other: str) -> Any:
    return lambda new, old: {**new, one: new[other], other: new[one]}


def half(new: Tensors, old: Tensors) -> Tensors:
    first = set(list(new)[: len(new) // 2])
    return {k: v if k in first else old[k] for k, v in new.items()}


def swap_rows(t: torch.Tensor) -> torch.Tensor:
    return t[[1, 0, *range(2, len(t))]]


def flip_bit(t: torch.Tensor) -> torch.Tensor:
    flat = t.view(-1).view(torch.uint8)
    flat[len(flat) // 2] ^= 1
    return t


def put_nan(t: torch.Tensor) -> torch.Tensor:
    t.view(-1)[-1] = torch.nan
    return t


def cut(t: torch.Tensor) -> torch.Tensor:
    t.view(-1)[t.numel() * 3 // 4 :] = 0
    return t


def halves(t: torch.Tensor) -> torch.Tensor:
    """Gate and x of in_proj in the other order."""
    size = 256
    return torch.cat([t[size : 2 * size], t[:size], t[2 * size :]])


def noise(t: torch.Tensor) -> torch.Tensor:
    return t + 1e-6 * torch.randn_like(t)


def as_if_a(t: torch.Tensor) -> torch.Tensor:
    """What the loader makes A of where A_log is taken for it."""
    return torch.log(-t.clamp(max=-1e-3))


SENT: dict[str, Any] = {
    "D dropped": without(D),
    "a norm missing": without(f"{OTHER}norm"),
    "a layer missing": without(OTHER),
    "nothing but the head": lambda new, old: {HEAD: new[HEAD]},
    "an unknown tensor": lambda new, old: {**new, "model.extra": torch.zeros(3)},
    "a stale A_log": stale(A_LOG),
    "a stale layer": stale(OTHER),
    "the update before": lambda new, old: dict(old),
    "half an update": half,
    "two rows swapped": on(IN_PROJ, swap_rows),
    "rows rolled by one": on(EMBEDDING, lambda t: t.roll(1, 0)),
    "two layers' tensors exchanged": exchanged(IN_PROJ, IN_PROJ.replace(LAYER, OTHER)),
    "keys and values exchanged": exchanged(
        f"{ATTENTION}k_proj.weight", f"{ATTENTION}v_proj.weight"
    ),
    "a square matrix transposed": on(f"{ATTENTION}q_proj.weight", lambda t: t.T.contiguous()),
    "a matrix transposed": on(IN_PROJ, lambda t: t.T.contiguous()),
    "a flattened matrix": on(IN_PROJ, lambda t: t.reshape(-1)),
    "wrong type: bf16": on(IN_PROJ, lambda t: t.bfloat16()),
    "wrong type: fp64": on(D, lambda t: t.double()),
    "wrong type: integers": on(IN_PROJ, lambda t: (t * 1000).int()),
    "rounded to fp16 and back": on(IN_PROJ, lambda t: t.half().float()),
    "scaled by 1.001": on(f"{LAYER}mixer.out_proj.weight", lambda t: t * 1.001),
    "one bit of one weight": on(HEAD, flip_bit),
    "a zeroed convolution bias": on(f"{CONV}.bias", torch.zeros_like),
    "a sign": on(f"{LAYER}mixer.dt_bias", lambda t: -t),
    "one value not a number": on(NORM, put_nan),
    "the end of a tensor lost": on("model.layers.2.mixer.up_proj.weight", cut),
    "A in place of A_log": on(A_LOG, lambda t: -t.exp()),
    "the taps reversed": on(f"{CONV}.weight", lambda t: t.flip(-1)),
    "gate and x exchanged": on(IN_PROJ, halves),
    "noise of 1e-6": on("model.layers.2.mixer.down_proj.weight", noise),
}

LOADED: dict[str, Any] = {
    "the loader skips D": without(D),
    "the loader skips A_log": without(A_LOG),
    "the loader skips a matrix": without(IN_PROJ),
    "the loader skips values, not keys": without(f"{ATTENTION}v_proj"),
    "the loader stops half-way": lambda new, old: dict(list(new.items())[: len(new) // 2]),
    "the loader keeps a stale gated norm": stale(f"{LAYER}mixer.norm"),
    "the loader keeps a stale embedding": stale(EMBEDDING),
    "the loader keeps a stale head": stale(HEAD),
    "the loader keeps a stale final norm": stale(NORM),
    "the loader rounds to bf16": lambda new, old: {k: v.bfloat16().float() for k, v in new.items()},
    "the loader exchanges keys and values": SENT["keys and values exchanged"],
    "the loader exchanges two layers": SENT["two layers' tensors exchanged"],
    "the loader transposes a square matrix": SENT["a square matrix transposed"],
    "the loader adds 1 to a norm": on(f"{OTHER}norm.weight", lambda t: t + 1),
    "the loader takes A_log for A": on(A_LOG, as_if_a),
}


def layer(engine: Any, number: int = 0) -> Any:
    """What mixes tokens in a layer, by its name in NemotronH (of its feed-forward too) or Granite."""
    found = engine.live_model().model.layers[number]
    return next(getattr(found, n) for n in ("mixer", "mamba", "self_attn") if hasattr(found, n))


@contextlib.contextmanager
def not_loaded(engine: Any) -> Iterator[None]:
    with patch.object(engine, "_load", lambda tensors: None):
        yield


@contextlib.contextmanager
def after_load(engine: Any, change: Callable[[], None]) -> Iterator[None]:
    load = engine._load

    def changed(tensors: Any) -> None:
        load(tensors)
        change()

    with patch.object(engine, "_load", changed):
        yield


def stale_kernel(path: str) -> Any:
    """The packed copy of a matrix, which is what multiplies, stays that of the weights before."""

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        module = engine.live_model().get_submodule(path)
        packed = module.cpu_linear
        with after_load(engine, lambda: setattr(module, "cpu_linear", packed)):
            yield

    return fault


@contextlib.contextmanager
def stale_alias(engine: Any) -> Iterator[None]:
    mixer = layer(engine)
    view, before = mixer.conv_weights, mixer.conv_weights.clone()
    try:
        with after_load(engine, lambda: setattr(mixer, "conv_weights", before)):
            yield
    finally:
        mixer.conv_weights = view


LIVE: dict[str, Any] = {
    "nothing is loaded": not_loaded,
    "a packed matrix stays stale": stale_kernel("model.layers.0.mixer.out_proj"),
    "the packed head stays stale": stale_kernel("lm_head"),
    "packed queries, keys and values stay stale": stale_kernel("model.layers.1.mixer.qkv_proj"),
    "the convolution's view stays stale": stale_alias,
}


def stale_state(number: int, place: int) -> Any:
    """One-token steps go on from the states that were there before the sync."""

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        mixer = layer(engine, number)
        caches = mixer.kv_cache if place >= 0 else mixer.attn.kv_cache
        cache = caches[place] if isinstance(caches, tuple | list) else caches
        before = cache.clone()

        def restore(module: Any, args: Any, kwargs: Any) -> None:
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            if len(hidden) <= 4:  # as many tokens as requests
                cache.copy_(before)

        hook = mixer.register_forward_pre_hook(restore, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    return fault


def replaced(find: Callable[[Any], Any], attribute: str, change: Callable[[Any], Any]) -> Any:
    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        owner = find(engine)
        old = getattr(owner, attribute)
        setattr(owner, attribute, change(old))
        try:
            yield
        finally:
            setattr(owner, attribute, old)

    return fault


def mamba(engine: Any) -> Any:
    from vllm.model_executor.layers.mamba import mamba_mixer2

    return mamba_mixer2


def with_options(**options: Any) -> Any:
    return lambda function: lambda *args, **kwargs: function(*args, **{**kwargs, **options})


def from_ones(function: Any) -> Any:
    """Prompts begin with a state that is not empty."""

    def scan(x: Any, *args: Any, **kwargs: Any) -> Any:
        b = args[2]
        rows = len(kwargs["cu_seqlens"]) - 1
        kwargs["initial_states"] = torch.ones(rows, x.shape[1], x.shape[2], b.shape[-1])
        return function(x, *args, **kwargs)

    return scan


@contextlib.contextmanager
def stopped(module: Any) -> Iterator[None]:
    """It adds nothing to the stream."""
    hook = module.register_forward_hook(lambda m, args, out: torch.zeros_like(out))
    try:
        yield
    finally:
        hook.remove()


def skipped(engine: Any) -> Any:
    return stopped(layer(engine, 2))


RUNNING: dict[str, Any] = {
    "stale SSM states": stale_state(0, 1),
    "stale convolution states": stale_state(0, 0),
    "stale keys and values": stale_state(1, -1),
    "prompts start from a used state": replaced(
        mamba, "mamba_chunk_scan_combined_varlen", from_ones
    ),
    "the time step is clamped": replaced(
        mamba, "mamba_chunk_scan_combined_varlen", with_options(dt_limit=(0.1, 1.0))
    ),
    "D left out of one-token steps": replaced(
        mamba, "selective_state_update", lambda f: lambda *a, **k: f(*a[:6], a[6] * 0, *a[7:], **k)
    ),
    "another attention scale": replaced(
        lambda e: layer(e, 1).attn.impl, "scale", lambda scale: scale * 1.1
    ),
    "another epsilon in a norm": replaced(
        lambda e: e.live_model().model.layers[3].norm, "variance_epsilon", lambda e: e + 10
    ),
    "another activation": replaced(lambda e: layer(e, 2), "act_fn", lambda f: torch.nn.ReLU()),
    "a layer that adds nothing": skipped,
    "logits scaled": replaced(
        lambda e: e.live_model().logits_processor, "scale", lambda scale: scale * 1.05
    ),
}
