"""What the processes of one training agree on: who is first, sums, and when to stop."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from workbench import cluster, kernels, placement
from workbench.errors import UserError
from workbench.recipe import StageConfig

if TYPE_CHECKING:
    from workbench.stage import StageContext

T = TypeVar("T")


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
    """Where this process trains: its GPU, or the CPU where it reserves (and so sees) none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def place(config: StageConfig) -> torch.device:
    """Where the stage's model, data and proofs belong, made this process's own.

    Triton launches on the current card, and a share of a card is the share of its memory. Raises:
    UserError where the stage reserves a card and sees none, or its kernels need one.
    """
    gpus = next((s.gpus for s in placement.seats(config) if s.who == "workers"), config.gpus)
    found = device()
    if gpus and found.type == "cpu":
        raise UserError(
            f"the stage reserves {gpus:g} GPUs and torch sees none here; set gpus: 0, or run "
            "scripts/doctor.py to see why"
        )
    if found.type == "cuda":
        torch.cuda.set_device(found)
        share = placement.memory_shares(config).stage if gpus else 1.0
        limit_memory(1.0 if _hosts_engine(config) else share)
    kernels.choose(config.kernels, found.type)
    return found


def _hosts_engine(config: StageConfig) -> bool:
    """Whether an engine will be in this process (backend local): the limit would be the engine's too."""
    on_card = any(s.who == "engine" and s.gpus for s in placement.seats(config))
    return on_card and not cluster.is_in_use()


def limit_memory(share: float) -> None:
    """Hold torch in this process to a share of its card's memory; 1.0: to none, whatever an earlier stage
    of the process was held to. Without a card nothing happens."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share, device())


def total(value: float) -> float:
    """The sum of every process's value, in fp64."""
    if workers() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=_transport_device())
    dist.all_reduce(summed)
    return float(summed)


def totals(values: torch.Tensor) -> torch.Tensor:
    """The sums of every process's values, one by one, in fp64 on the CPU."""
    summed = values.to(device=_transport_device() if workers() > 1 else "cpu", dtype=torch.float64)
    if workers() > 1:
        dist.all_reduce(summed)
    return summed.cpu()


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. A stop that one sees a step earlier than another
    would leave the others waiting for it."""
    return total(float(flag)) > 0 if workers() > 1 else flag


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in every process (plain values and CPU tensors).

    Raises: UserError in all of them where the first raises one: none then waits for the others.
    """
    if workers() == 1:
        return make()
    sent: list[Any] = [None, None]
    if is_first():
        try:
            sent[0] = make()
        except UserError as error:
            sent[1] = str(error)
    dist.broadcast_object_list(sent, src=0, device=_transport_device())
    if sent[1] is not None:
        raise UserError(sent[1])
    value: T = sent[0]
    return value


def in_first(make: Callable[[], T]) -> T | None:
    """What `make` gives in the first process; None in the others, which wait for it.

    Raises: UserError in all of them where it raises one.
    """
    made: list[T] = []

    def once() -> None:
        made.append(make())

    from_first(once)
    return made[0] if made else None


def barrier() -> None:
    """Wait for all."""
    if workers() > 1:
        dist.barrier()


def _transport_device() -> torch.device:
    return device() if dist.get_backend() == "nccl" else torch.device("cpu")


def first_notes(context: "StageContext") -> Callable[[dict[str, Any]], None]:
    """Puts what a validation found into the manifest, in the first process of a training."""

    def note(outputs: dict[str, Any]) -> None:
        if is_first():
            context.note(**outputs)

    return note
