"""Linear interpolation of two checkpoints on disk, a shard at a time."""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.weights import (
    LazyTensors,
    architecture,
    canonical,
    checkpoint_specs,
    json_object,
    weight_files,
)
from workbench.errors import UserError, some_of


def interpolate(first: str | Path, second: str | Path, alpha: float, out: str | Path) -> Path:
    """Write (1 - alpha) * first + alpha * second to the folder `out`, a plain checkpoint.

    Every tensor is computed in float64 and rounded once to its own type. alpha 0 gives the tensors
    of `first` and alpha 1 those of `second`, bit for bit (signs of zero included). Configuration,
    tokenizer and template are those of `first`; `out` must not exist or be empty.

    Raises: UserError where alpha is not a number in [0, 1], or where the two differ in architecture,
    tokenizer, tensor names, shapes or types, or hold a value that is not finite.
    """
    first, second, out = Path(first), Path(second), Path(out)
    if not (isinstance(alpha, int | float) and math.isfinite(alpha) and 0 <= alpha <= 1):
        raise UserError(f"merge: alpha is {alpha!r}; it must be a number from 0 to 1")
    check_mergeable(first, second)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"merge: {out} is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    other = LazyTensors(second)
    for shard in weight_files(first):
        with safe_open(str(shard), "pt") as tensors:
            merged = {
                name: _mix(name, tensors.get_tensor(name), other[canonical(name)], alpha)
                for name in tensors.keys()  # noqa: SIM118 - not a mapping
            }
            metadata = tensors.metadata() or {"format": "pt"}
        save_file(merged, str(out / shard.name), metadata=metadata)
    for path in first.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)
    return out


def check_mergeable(first: Path, second: Path) -> None:
    """Raises: UserError saying what differs."""
    one, two = checkpoint_specs(first), checkpoint_specs(second)
    _same("configurations", architecture(first), architecture(second), first, second)
    _same("tensors", one, two, first, second)
    for name in ("tokenizer.json", "chat_template.jinja"):
        _same(name, _file(first / name), _file(second / name), first, second)


def _same(what: str, one: Any, two: Any, first: Path, second: Path) -> None:
    if one == two:
        return
    if isinstance(one, dict) and isinstance(two, dict):
        names = sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
        name = names[0]
        shown = f"{some_of(names)}; {name}: {one.get(name)!r:.80} and {two.get(name)!r:.80}"
    else:
        shown = "one of them is absent" if one is None or two is None else "the texts differ"
    raise UserError(
        f"merge: {first} and {second} differ in their {what} ({shown}); only two checkpoints of "
        "one architecture and one tokenizer can be merged"
    )


def _file(path: Path) -> Any:
    if not path.is_file():
        return None
    return json_object(path) if path.suffix == ".json" else path.read_text(encoding="utf-8")


def _mix(name: str, one: torch.Tensor, two: torch.Tensor, alpha: float) -> torch.Tensor:
    if not one.is_floating_point():
        if not torch.equal(one, two):
            raise UserError(f"merge: {name} holds {one.dtype} and differs; it cannot be averaged")
        return one.clone()
    for tensor in (one, two):
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"merge: {name} holds a value that is not finite; a model is damaged")
    # Not a special case for speed: 1.0 * -0.0 + 0.0 * x is +0.0.
    if alpha in (0, 1):
        return (two if alpha else one).clone()
    return ((1 - alpha) * one.double() + alpha * two.double()).to(one.dtype)
