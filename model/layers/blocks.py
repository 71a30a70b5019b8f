"""Working through a long tensor a few rows at a time, so that what is in hand stays in the cache."""

from collections.abc import Iterator

import torch

# Values in hand at once: 256 KiB of fp32, half of a small L2 cache.
_BLOCK_VALUES = 1 << 16


def row_blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices over `rows` rows of `width` values; one slice where the device is no CPU."""
    step = max(16, _BLOCK_VALUES // width) if device.type == "cpu" else rows
    for first in range(0, rows, max(1, step)):
        yield slice(first, min(first + step, rows))
