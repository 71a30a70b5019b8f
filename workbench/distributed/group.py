"""What the processes of one training agree on: who is first, sums, and when to stop."""

import os

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def workers() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def device() -> torch.device:
    """Where this process trains: its GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def total(value: float) -> float:
    """The sum of every process's value, in fp64."""
    if workers() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=_wire())
    dist.all_reduce(summed)
    return float(summed)


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. A stop that one sees a step earlier than another
    would leave the others waiting for it."""
    return total(float(flag)) > 0 if workers() > 1 else flag


def barrier() -> None:
    """Wait for all."""
    if workers() > 1:
        dist.barrier()


def _wire() -> torch.device:
    return device() if dist.get_backend() == "nccl" else torch.device("cpu")
