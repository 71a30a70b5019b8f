"""Microbatches of one step side by side on the CPU, one thread each, with a fixed sum.

Threads inside an operation gain little here: a step is thousands of short operations, and each
would wait for the slowest thread. Two microbatches that meet once a step do not wait.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

Loss = Callable[[], torch.Tensor]


class GradientWorkers:
    """Sums losses and gradients over microbatches, on up to `threads` threads.

    The sum is bitwise the same every time for one number of threads: each worker adds up its
    share in order, and the shares are added in order. The model must draw no random numbers in
    its forward pass (a hybrid does not). With more threads than microbatches the rest of the
    threads serve the operations.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], threads: int = 1) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        on_cpu = all(p.device.type == "cpu" for p in self.parameters)
        self.threads = threads if on_cpu else 1
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="microbatch")

    def run(self, losses: Sequence[Loss]) -> float:
        """Fill every parameter's .grad with the gradient of the losses' sum; returns the sum.

        Errors: whatever a loss raises, after all workers have ended; .grad is then untouched.
        """
        workers = max(1, min(self.threads, len(losses)))
        torch.set_num_threads(max(1, self.threads // workers))
        if workers == 1:
            shares = [self._share(losses)]
        else:
            parts = [losses[i::workers] for i in range(workers)]
            shares = list(self._pool.map(self._share, parts))
        total, grads = shares[0]
        for more, others in shares[1:]:
            total += more
            for mine, other in zip(grads, others, strict=True):
                mine.add_(other)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        return total

    def _share(self, losses: Sequence[Loss]) -> tuple[float, list[torch.Tensor]]:
        total = 0.0
        sums: list[torch.Tensor] = []
        for make in losses:
            loss = make()
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            total += float(loss.detach())
            if sums:
                torch._foreach_add_(sums, grads)
            else:
                sums = [grad.contiguous() for grad in grads]
        return total, sums
