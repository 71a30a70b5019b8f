"""Peak memory of reply log-probabilities, forward and backward, as the vocabulary grows: slices against all
logits at once. Each case in a process of its own; what the weights and their gradients take is subtracted.

    python benchmarks/logprob_memory.py --tokens 4096 --width 64
"""

import argparse
import multiprocessing
import resource
import time
from typing import Any

VOCABULARIES = (8192, 32768, 131072)


def case(way: str, tokens: int, width: int, vocabulary: int, out: Any) -> None:
    """Peak over the resting memory in MiB, and seconds."""
    import torch

    from model.logprobs import Truncation, linear_logprobs, token_logprobs

    torch.set_num_threads(1)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    target = torch.randint(0, vocabulary, (tokens,))
    (hidden[:8] @ weight[:8].T).sum().backward()  # what every product loads, and both gradients
    resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if way == "slices":
        values, _ = linear_logprobs(hidden, weight, target, Truncation())
    else:
        values, _ = token_logprobs(hidden @ weight.T, target, Truncation())
    values.sum().backward()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The gradient of the weight is made anew beside the old one, whichever the way.
    out.put(((peak - resting) / 1024 - weight.numel() * 4 / 2**20, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{options.tokens} tokens, width {options.width}, fp32, forward and backward, one thread")
    print(f"{'vocabulary':>10s}{'all logits MiB':>16s}{'s':>8s}{'slices MiB':>12s}{'s':>8s}")
    for vocabulary in VOCABULARIES:
        row = f"{vocabulary:10,d}"
        for way, wide in (("all", 16), ("slices", 12)):
            out = context.Queue()
            worker = context.Process(
                target=case, args=(way, options.tokens, options.width, vocabulary, out)
            )
            worker.start()
            memory, seconds = out.get()
            worker.join()
            row += f"{memory:{wide},.0f}{seconds:8.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
