"""How much of a long tensor is worked on at once: what a CPU's cache holds, or what fills a GPU."""

from collections.abc import Iterator

import torch

# A GPU runs one large kernel in the time of one small one: 1 GiB of fp32 keeps it busy, and is a
# twentieth of the smallest card that Anneal is meant for.
_GPU_VALUES = 1 << 28
# Values in hand at once on a CPU: 256 KiB of fp32, half of a small L2 cache.
_CACHE_VALUES = 1 << 16


def values_at_once(device: torch.device, *, cpu: int) -> int:
    """How many values to hold at once on `device`; `cpu` of them where it is the CPU."""
    return cpu if device.type == "cpu" else _GPU_VALUES


def row_blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices over `rows` rows of `width` values; one slice where the device is not the CPU."""
    step = max(16, _CACHE_VALUES // width) if device.type == "cpu" else rows
    for first in range(0, rows, max(1, step)):
        yield slice(first, min(first + step, rows))
