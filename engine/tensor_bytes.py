"""Tensors on their way through Ray's object store: one copy in, none out.

Ray pickles a torch tensor by value, three copies of a model on each side. Arrays of bytes go in with
one copy and are read where they lie.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorBytes:
    """Named tensors as arrays of bytes. parts: (name, dtype without "torch.", shape, uint8 array)."""

    parts: list[tuple[str, str, tuple[int, ...], Any]]


def pack(tensors: "Iterable[tuple[str, torch.Tensor]]") -> TensorBytes:
    """A view of the tensors' memory where they are contiguous and in RAM, else a copy."""
    import torch  # noqa: PLC0415 - configuration imports us

    parts = []
    for name, tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        dtype = str(tensor.dtype).removeprefix("torch.")
        parts.append((name, dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy()))
    return TensorBytes(parts)


def unpack(given: TensorBytes) -> "list[tuple[str, torch.Tensor]]":
    """The tensors again. From an object store they can only be read: writing to one ends the process."""
    import torch  # noqa: PLC0415 - configuration imports us

    out = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")
        for name, dtype, shape, data in given.parts:
            flat = torch.from_numpy(data).view(getattr(torch, dtype))
            out.append((name, flat.reshape(shape)))
    return out
