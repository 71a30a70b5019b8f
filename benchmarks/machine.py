"""What this machine reaches now, for benchmarks to measure themselves by."""

import time
from collections.abc import Callable


def _best(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def peaks(threads: int) -> dict[str, float]:
    """FLOPs and bytes a second in fp32: the best of 25 products of [1024, 256] and [256, 1024], and of 10
    readings of 256 MB."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 256), torch.randn(256, 1024)
    large = torch.randn(64 * 2**20)
    flops = 2 * 1024 * 256 * 1024 / _best(lambda: a @ b, 25)
    return {"flops": flops, "bandwidth": 4 * large.numel() / _best(large.sum, 10)}
