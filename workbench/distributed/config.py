"""Recipe section for data-parallel training. Imports no torch and no Ray."""

from typing import Self

from pydantic import Field, model_validator

from workbench.load import Strategy
from workbench.placement import Reserving, Seat
from workbench.recipe import Recipe


class DistributedConfig(Reserving):
    """How many processes train, and what they share. One process needs nothing of this."""

    workers: int = Field(1, ge=1)
    """Processes; with GPUs one a GPU. They share every step's rows."""
    strategy: Strategy = "none"
    """none: one process, without Ray Train. ddp: every worker holds all (torch DDP). zero2: gradients
    and optimizer are sharded; zero3: the weights as well (DeepSpeed)."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Logical CPUs each worker reserves; the stage's own `cpus` are then not reserved."""
    gpus_per_worker: float | None = Field(None, ge=0, le=1)
    """GPUs each worker reserves: 0 (CPU over gloo) or 1 (NCCL); null: 1 where there are cards."""
    timeout_s: float = Field(1800.0, gt=0)
    """Seconds a collective may take before the run fails; a lost worker is noticed after them."""

    @model_validator(mode="after")
    def _fits(self) -> "DistributedConfig":
        if self.strategy == "none" and self.workers > 1:
            raise ValueError(f"{self.workers} workers need a strategy: ddp, zero2 or zero3")
        if self.gpus_per_worker not in (None, 0, 1):
            raise ValueError(f"gpus_per_worker is {self.gpus_per_worker}; it must be 0 or 1")
        return self

    def seat(self) -> Seat | None:
        """What the workers reserve, where they do the training."""
        if not self.on:
            return None
        return Seat("workers", self.workers, self.cpus_per_worker, self.gpus_per_worker)

    def with_gpus(self, each: float) -> Self:
        """The same workers with a card each, or none."""
        return self.model_copy(update={"gpus_per_worker": float(each > 0)})

    @property
    def on(self) -> bool:
        """Whether Ray Train workers do the training."""
        return self.strategy != "none"

    def check_rows(self, rows_per_step: int, microbatch_rows: int) -> int:
        """Microbatches a worker and step. Raises: ValueError where the rows do not share out."""
        share, rest = divmod(rows_per_step, microbatch_rows * self.workers)
        if rest:
            raise ValueError(
                f"rows_per_step ({rows_per_step}) must be a multiple of microbatch_rows "
                f"({microbatch_rows}) x distributed.workers ({self.workers})"
            )
        return share


def why_not(config: DistributedConfig, recipe: Recipe) -> str | None:
    """Why this recipe cannot train with several processes, or None."""
    if config.on and recipe.cluster.backend == "local":
        return (
            f"distributed.strategy {config.strategy!r} needs Ray, and cluster.backend is 'local'; "
            "use backend: ray or strategy: none"
        )
    return None
