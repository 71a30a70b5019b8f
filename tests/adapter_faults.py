"""Ways in which a sync of adapters goes wrong, each to be undone: `sync_faults` for what only adapters have.

`sent`: on the way. `base`: what they stand on is not what the engine was given. `loaded` and `live`: inside the
engine, on what moves at all: a frozen tensor that stays as it was is no fault. `MERGED`: the sum is wrong. A
family has its own `Names`.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

from engine.merged import Merged
from model.lora import Adapter
from model.nf4 import Nf4Linear
from tests import sync_faults as faults
from tests.sync_faults import (
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


class Names(NamedTuple):
    """Where a model has what goes wrong, by the names of its files. mamba, in_proj: of its first layer.
    twins: two adapted matrices of one shape; up: another adapted one. `other`: a layer that is adapted. norms:
    one inside, and the last."""

    mamba: str
    attention: str
    twins: tuple[str, str]
    up: str
    feed_forward: str
    other: str
    embedding: str
    norms: tuple[str, str]

    @property
    def in_proj(self) -> str:
        return f"{self.mamba}in_proj"

    @property
    def d(self) -> str:
        return f"{self.mamba}D"


MINIATURE = Names(
    mamba="model.layers.0.mixer.", attention="model.layers.1.mixer.",
    twins=("model.layers.0.mixer.in_proj", "model.layers.3.mixer.in_proj"),
    up="model.layers.2.mixer.up_proj", feed_forward="model.layers.2.", other="model.layers.3.",
    embedding="model.embeddings.weight", norms=("model.layers.3.norm.weight", "model.norm_f.weight"),
)  # fmt: skip


def rescaled(new: Any, old: Any) -> Any:
    return {k: v * (1.001 if "lora_" in k and "scaling" not in k else 1) for k, v in new.items()}


def sent(n: Names) -> dict[str, Any]:
    """Name of a fault -> what arrives in place of what was sent."""
    a, b, scaling = (f"{n.in_proj}.lora_{part}" for part in ("A", "B", "scaling"))
    first, second = n.twins
    return {
        "an A dropped": without(a),
        "a B dropped": without(b),
        "a scaling dropped": without(scaling),
        "a layer's adapters missing": without(n.other),
        "one adapter alone": lambda new, old: {k: v for k, v in new.items() if n.in_proj in k},
        "nothing at all": lambda new, old: {},
        "an unknown adapter": lambda new, old: {**new, "model.extra.lora_A": torch.zeros(4, 3)},
        "a base tensor beside them": lambda new, old: {**new, n.norms[1]: torch.ones(128)},
        "a stale A": stale(a),
        "a stale B": stale(b),
        "a stale layer": stale(n.other),
        "the update before": lambda new, old: dict(old),
        "half an update": half,
        "A and B under each other's names": exchanged(a, b),
        "two rows of A swapped": on(a, swap_rows),
        "rows of B rolled by one": on(b, lambda t: t.roll(1, 0)),
        "two layers' A exchanged": exchanged(f"{first}.lora_A", f"{second}.lora_A"),
        "two layers' B exchanged": exchanged(f"{first}.lora_B", f"{second}.lora_B"),
        "keys and values exchanged": exchanged(
            f"{n.attention}k_proj.lora_B", f"{n.attention}v_proj.lora_B"
        ),
        "A transposed": on(a, lambda t: t.T.contiguous()),
        "B flattened": on(b, lambda t: t.reshape(-1)),
        "A in bf16": on(a, lambda t: t.bfloat16()),
        "B in fp64": on(b, lambda t: t.double()),
        "B as integers": on(b, lambda t: (t * 1000).int()),
        "B rounded to fp16 and back": on(b, lambda t: t.half().float()),
        "all scaled by 1.001": rescaled,
        "one bit of one A": on(a, flip_bit),
        "one bit of one B": on(b, flip_bit),
        "another scaling": on(scaling, lambda t: t * 1.001),
        "a scaling in fp32": on(scaling, lambda t: t.float()),
        "a scaling's sign": on(scaling, lambda t: -t),
        "a zeroed B": on(b, torch.zeros_like),
        "a B's sign": on(f"{n.up}.lora_B", lambda t: -t),
        "one value not a number": on(a, put_nan),
        "the end of a B lost": on(f"{n.up}.lora_B", faults.cut),
        "noise of 1e-6": on(f"{n.up}.lora_A", noise),
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


def base(n: Names) -> dict[str, Any]:
    """Name of a fault -> what happens to what the adapters stand on, of a pair."""
    return {
        "one bit of the trainer's embedding": trainers(n.embedding),
        "one bit under the trainer's adapters": trainers(f"{n.in_proj}.base_layer.weight"),
        "one bit of the trainer's D": trainers(n.d),
        "one bit of the engine's file": on_disk(in_place),
        "one bit of a norm in the engine's file": rewritten(on(n.norms[1], flip_bit)),
        "two layers exchanged in the file": rewritten(
            exchanged(*(f"{twin}.weight" for twin in n.twins))
        ),
        "the file rounded to fp8 and back": rewritten(
            lambda new, old: {k: v.to(torch.float8_e4m3fn).to(v.dtype) for k, v in new.items()}
        ),
        "a tensor lost from the file": rewritten(without(f"{n.mamba}A_log")),
        "a tensor more in the file": rewritten(
            lambda new, old: {**new, "model.extra": torch.zeros(3)}
        ),
        "a matrix transposed in the file": rewritten(
            on(f"{n.attention}q_proj.weight", lambda t: t.T.contiguous())
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


def read_otherwise(name: str) -> Any:
    """A frozen tensor is read wrong while it is loaded, and right before and after."""

    @contextlib.contextmanager
    def fault(engine: Any) -> Iterator[None]:
        load, typed = engine._load, Merged._typed

        def wrong(self: Any, asked: str) -> Any:
            found = typed(self, asked)
            return flip_bit(found.clone()) if asked == name else found

        def loading(weights: Any) -> None:
            with patch.object(Merged, "_typed", wrong):
                load(weights)

        with patch.object(engine, "_load", loading):
            yield

    return fault


@contextlib.contextmanager
def another_view(engine: Any) -> Iterator[None]:
    mixer = layer(engine)
    view = mixer.conv_weights
    try:
        with after_load(engine, lambda: setattr(mixer, "conv_weights", view * 1.001)):
            yield
    finally:
        mixer.conv_weights = view


def loaded(n: Names) -> dict[str, Any]:
    """Name of a fault -> what the loader makes of what it is given."""
    keys, values = f"{n.attention}k_proj.weight", f"{n.attention}v_proj.weight"
    in_proj, a_log = f"{n.in_proj}.weight", f"{n.mamba}A_log"
    return {
        "the loader skips a matrix": without(in_proj),
        "the loader skips values, not keys": without(values),
        "the loader stops half-way": lambda new, old: dict(list(new.items())[: len(new) // 2]),
        "the loader rounds to bf16": faults.LOADED["the loader rounds to bf16"],
        "the loader exchanges keys and values": exchanged(keys, values),
        "the loader exchanges two layers": exchanged(*(f"{twin}.weight" for twin in n.twins)),
        "the loader transposes a square matrix": on(
            f"{n.attention}q_proj.weight", lambda t: t.T.contiguous()
        ),
        "the loader adds 1 to a norm": on(n.norms[0], lambda t: t + 1),
        "the loader takes A_log for A": on(a_log, faults.as_if_a),
        "the loader zeroes D": on(n.d, torch.zeros_like),
        "the loader changes a bit of the embedding": on(n.embedding, flip_bit),
        "the loader keeps a stale matrix": stale(in_proj),
        "the loader keeps a stale output of attention": stale(f"{n.attention}o_proj"),
        "the loader keeps a stale feed-forward": stale(n.feed_forward),
        "the loader reverses the taps": on(f"{n.mamba}conv1d.weight", lambda t: t.flip(-1)),
    }


def live(n: Names) -> dict[str, Any]:
    """Name of a fault -> what happens inside the engine."""
    return {
        "nothing is loaded": not_loaded,
        "the base is loaded without adapters": unmerged("weight"),
        "one layer is loaded without its adapter": unmerged(f"{n.in_proj}.weight"),
        "a frozen norm is read otherwise while it is loaded": read_otherwise(n.norms[1]),
        "a packed matrix stays stale": stale_kernel(n.in_proj),
        "a packed feed-forward stays stale": stale_kernel(n.up),
        "packed queries, keys and values stay stale": stale_kernel(f"{n.attention}qkv_proj"),
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
SENT, BASE = sent(MINIATURE), base(MINIATURE)
LOADED, LIVE = loaded(MINIATURE), live(MINIATURE)
RUNNING: dict[str, Any] = faults.RUNNING | MERGED
