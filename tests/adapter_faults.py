"""Ways in which a sync of adapters goes wrong, each to be undone: `sync_faults` for what only adapters have.

`SENT`: on the way. `BASE`: what they stand on is not what the engine was given. `LOADED` and `LIVE`: inside the
engine, on what moves at all: a frozen tensor that stays as it was is no fault. `MERGED`: the sum is wrong.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

from engine.merged import Merged
from model.lora import Adapter
from model.nf4 import Nf4Linear
from tests import sync_faults as faults
from tests.sync_faults import (
    A_LOG,
    ATTENTION,
    CONV,
    EMBEDDING,
    IN_PROJ,
    LAYER,
    NORM,
    OTHER,
    D,
    after_load,
    exchanged,
    flip_bit,
    half,
    layer,
    noise,
    not_loaded,
    on,
    put_nan,
    stale,
    stale_kernel,
    swap_rows,
    without,
)

MIXER, UP = f"{LAYER}mixer.in_proj", "model.layers.2.mixer.up_proj"
A, B, SCALING = f"{MIXER}.lora_A", f"{MIXER}.lora_B", f"{MIXER}.lora_scaling"


def rescaled(new: Any, old: Any) -> Any:
    return {k: v * (1.001 if "lora_" in k and "scaling" not in k else 1) for k, v in new.items()}


SENT: dict[str, Any] = {
    "an A dropped": without(A),
    "a B dropped": without(B),
    "a scaling dropped": without(SCALING),
    "a layer's adapters missing": without(OTHER),
    "one adapter alone": lambda new, old: {k: v for k, v in new.items() if MIXER in k},
    "nothing at all": lambda new, old: {},
    "an unknown adapter": lambda new, old: {**new, "model.extra.lora_A": torch.zeros(4, 3)},
    "a base tensor beside them": lambda new, old: {**new, NORM: torch.ones(128)},
    "a stale A": stale(A),
    "a stale B": stale(B),
    "a stale layer": stale(OTHER),
    "the update before": lambda new, old: dict(old),
    "half an update": half,
    "A and B under each other's names": exchanged(A, B),
    "two rows of A swapped": on(A, swap_rows),
    "rows of B rolled by one": on(B, lambda t: t.roll(1, 0)),
    "two layers' A exchanged": exchanged(A, A.replace(LAYER, OTHER)),
    "two layers' B exchanged": exchanged(B, B.replace(LAYER, OTHER)),
    "keys and values exchanged": exchanged(
        f"{ATTENTION}k_proj.lora_B", f"{ATTENTION}v_proj.lora_B"
    ),
    "A transposed": on(A, lambda t: t.T.contiguous()),
    "B flattened": on(B, lambda t: t.reshape(-1)),
    "A in bf16": on(A, lambda t: t.bfloat16()),
    "B in fp64": on(B, lambda t: t.double()),
    "B as integers": on(B, lambda t: (t * 1000).int()),
    "B rounded to fp16 and back": on(B, lambda t: t.half().float()),
    "all scaled by 1.001": rescaled,
    "one bit of one A": on(A, flip_bit),
    "one bit of one B": on(B, flip_bit),
    "another scaling": on(SCALING, lambda t: t * 1.001),
    "a scaling in fp32": on(SCALING, lambda t: t.float()),
    "a scaling's sign": on(SCALING, lambda t: -t),
    "a zeroed B": on(B, torch.zeros_like),
    "a B's sign": on(f"{UP}.lora_B", lambda t: -t),
    "one value not a number": on(A, put_nan),
    "the end of a B lost": on(f"{UP}.lora_B", faults.cut),
    "noise of 1e-6": on(f"{UP}.lora_A", noise),
}


def trainers(name: str) -> Any:
    """One bit of a tensor that the trainer holds frozen; of one in 4 bits a bit of a code."""

    @contextlib.contextmanager
    def fault(pair: Any) -> Iterator[None]:
        owner = pair.model.get_submodule(name.rpartition(".")[0])
        tensor = owner.codes if isinstance(owner, Nf4Linear) else pair.model.get_parameter(name)
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.copy_(flip_bit(before.clone()))
        try:
            yield
        finally:
            with torch.no_grad():
                tensor.copy_(before)

    return fault


def on_disk(change: Callable[[Path], None]) -> Any:
    """Something happens to the engine's checkpoint; a copy of it is put back."""

    @contextlib.contextmanager
    def fault(pair: Any) -> Iterator[None]:
        folder = Path(pair.engine._folder)
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        try:
            change(folder)
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            kept.rename(folder)

    return fault


def rewritten(change: Callable[[Any, Any], Any]) -> Any:
    def act(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        named = {name.replace("backbone.", "model."): tensor for name, tensor in tensors.items()}
        save_file(
            {k: v.clone() for k, v in change(named, named).items()}, path, metadata={"format": "pt"}
        )

    return on_disk(act)


def in_place(folder: Path) -> None:
    """The last byte of the file, which keeps its length, its place on the disk and its times."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        (byte,) = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte ^ 1]))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_shape(folder: Path) -> None:
    (folder / "config.json").unlink()


@contextlib.contextmanager
def elsewhere(pair: Any) -> Iterator[None]:
    """The engine was given another model of the same shape."""
    folder = Path(pair.engine._folder)
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    path = other / "model.safetensors"
    save_file({k: v * 1.01 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    with patch.object(pair.engine, "_folder", str(other)):
        yield
    shutil.rmtree(other)


BASE: dict[str, Any] = {
    "one bit of the trainer's embedding": trainers(EMBEDDING),
    "one bit under the trainer's adapters": trainers(f"{MIXER}.base_layer.weight"),
    "one bit of the trainer's D": trainers(D),
    "one bit of the engine's file": on_disk(in_place),
    "one bit of a norm in the engine's file": rewritten(on(NORM, flip_bit)),
    "two layers exchanged in the file": rewritten(
        exchanged(IN_PROJ, IN_PROJ.replace(LAYER, OTHER))
    ),
    "the file rounded to fp8 and back": rewritten(
        lambda new, old: {k: v.to(torch.float8_e4m3fn).to(v.dtype) for k, v in new.items()}
    ),
    "a tensor lost from the file": rewritten(without(A_LOG)),
    "a tensor more in the file": rewritten(lambda new, old: {**new, "model.extra": torch.zeros(3)}),
    "a matrix transposed in the file": rewritten(
        on(f"{ATTENTION}q_proj.weight", lambda t: t.T.contiguous())
    ),
    "the file cut short": on_disk(cut_short),
    "the file gone": on_disk(lambda folder: (folder / "model.safetensors").unlink()),
    "its config gone": on_disk(without_shape),
    "the folder gone": on_disk(shutil.rmtree),
    "the engine was given another model": elsewhere,
}


def unmerged(*words: str) -> Any:
    """The base in place of what was merged, told by a layer without its update."""

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        load = engine._load

        def plain(weights: Any) -> None:
            base = {n: weights._typed(n) for n in weights if all(w in n for w in words)}
            load({**dict(weights), **base})

        with patch.object(engine, "_load", plain):
            yield

    return fault


@contextlib.contextmanager
def read_otherwise(engine: Any) -> Iterator[None]:
    """A frozen tensor is read wrong while it is loaded, and right before and after."""
    load, typed = engine._load, Merged._typed

    def wrong(self: Any, name: str) -> Any:
        found = typed(self, name)
        return flip_bit(found.clone()) if name == NORM else found

    def loading(weights: Any) -> None:
        with patch.object(Merged, "_typed", wrong):
            load(weights)

    with patch.object(engine, "_load", loading):
        yield


@contextlib.contextmanager
def another_view(engine: Any) -> Iterator[None]:
    mixer = layer(engine)
    view = mixer.conv_weights
    try:
        with after_load(engine, lambda: setattr(mixer, "conv_weights", view * 1.001)):
            yield
    finally:
        mixer.conv_weights = view


_SAME = (
    "the loader skips a matrix", "the loader skips values, not keys", "the loader stops half-way",
    "the loader rounds to bf16", "the loader exchanges keys and values",
    "the loader exchanges two layers", "the loader transposes a square matrix",
    "the loader adds 1 to a norm", "the loader takes A_log for A",
)  # fmt: skip
LOADED: dict[str, Any] = {name: faults.LOADED[name] for name in _SAME} | {
    "the loader zeroes D": on(D, torch.zeros_like),
    "the loader changes a bit of the embedding": on(EMBEDDING, flip_bit),
    "the loader keeps a stale matrix": stale(IN_PROJ),
    "the loader keeps a stale output of attention": stale(f"{ATTENTION}o_proj"),
    "the loader keeps a stale feed-forward": stale("model.layers.2."),
    "the loader reverses the taps": on(f"{CONV}.weight", lambda t: t.flip(-1)),
}

LIVE: dict[str, Any] = {
    "nothing is loaded": not_loaded,
    "the base is loaded without adapters": unmerged("weight"),
    "one layer is loaded without its adapter": unmerged(IN_PROJ),
    "a frozen norm is read otherwise while it is loaded": read_otherwise,
    "a packed matrix stays stale": stale_kernel("model.layers.0.mixer.in_proj"),
    "a packed feed-forward stays stale": stale_kernel(UP),
    "packed queries, keys and values stay stale": stale_kernel("model.layers.1.mixer.qkv_proj"),
    "the convolution's view is another": another_view,
}


def merging(change: Callable[[Adapter], Adapter]) -> Any:
    merged = Adapter.merged

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        with patch.object(Adapter, "merged", lambda self, weight: merged(change(self), weight)):
            yield

    return fault


MERGED: dict[str, Any] = {
    "merged without the scaling": merging(lambda a: a._replace(scaling=1.0)),
    "merged twice": merging(lambda a: a._replace(scaling=2 * a.scaling)),
    "subtracted in place of added": merging(lambda a: a._replace(scaling=-a.scaling)),
    "merged as nothing": merging(lambda a: a._replace(scaling=0.0)),
    "a scaling of 1% more": merging(lambda a: a._replace(scaling=1.01 * a.scaling)),
    "one rank left out": merging(lambda a: a._replace(a=a.a[1:], b=a.b[:, 1:])),
    "ranks in another order": merging(lambda a: a._replace(a=a.a.roll(1, 0))),
    "one rank counted twice": merging(
        lambda a: a._replace(a=torch.cat([a.a, a.a[:1]]), b=torch.cat([a.b, a.b[:, :1]], 1))
    ),
}
