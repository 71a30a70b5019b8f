"""What the launches of all kernels share: the card, the types of products, tiles."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl

# Set before Triton is imported, if at all: kernels then run on the CPU, and their arithmetic is numpy's.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# A product needs at least this many rows, columns and terms.
LEAST = 16
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def takes(dtype: torch.dtype) -> bool:
    """Whether the kernels read this type."""
    return dtype in _DTYPES


def at_least_a_product(size: int) -> int:
    """The power of two that holds `size`, and is wide enough for a product."""
    return max(LEAST, int(triton.next_power_of_2(size)))


def products(dtype: torch.dtype) -> dict[str, Any]:
    """How tensors of this type are multiplied.

    fp32: exactly, or by TF32 where torch's own products may. (Three passes of TF32 took ptxas a minute here.)
    """
    fast = torch.backends.cuda.matmul.allow_tf32
    half = dtype != torch.float32
    return {
        "DOT": _DTYPES[dtype],
        "PRECISION": "tf32" if fast and not half else "ieee",
        "HALF_HERE": half and INTERPRETED,
    }


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Triton launches on the current card: make it the one that holds the data."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield
