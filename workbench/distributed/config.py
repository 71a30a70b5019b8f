"""Recipe section for training in several processes. Imports no torch and no Ray."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from workbench.load import Strategy
from workbench.placement import Reserving, Seat
from workbench.recipe import Recipe, StageConfig


class DistributedConfig(Reserving):
    """How many processes train, and what they share. One process needs nothing of this."""

    workers: int = Field(1, ge=1)
    """Processes; with GPUs one a GPU. They share every step's rows."""
    strategy: Strategy = "none"
    """none: one process, without Ray Train. fsdp: weights, gradients and optimizer are sharded, and a
    checkpoint continues in any number of processes (torch FSDP2). For `sft` also ddp: every worker
    holds all (torch DDP); zero2: gradients and optimizer are sharded; zero3: the weights as well
    (DeepSpeed)."""
    context: Literal[1, 2, 4, 8] = 1
    """Processes that split each row between them (fsdp alone). It must divide the model's Mamba groups
    and its key-value heads."""
    replicate: int = Field(1, ge=1)
    """Copies of the sharded state (fsdp alone): above a few machines less is sent between them."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Logical CPUs each worker reserves; the stage's own `cpus` are then not reserved."""
    gpus_per_worker: float | None = Field(None, ge=0, le=1)
    """GPUs each worker reserves: 0 (CPU over gloo) or 1 (NCCL); null: 1 where there are cards."""
    timeout_s: float = Field(1800.0, gt=0)
    """Seconds a collective may take before the run fails; a lost worker is noticed after them."""
    restarts: int = Field(2, ge=0)
    """Times that all workers are started again after one was lost (killed, or its machine is gone). They
    continue from the newest checkpoint; a worker that fails by itself ends the stage."""
    wait_s: float = Field(600.0, ge=0)
    """Seconds to wait for another machine where one was lost and the rest cannot hold the workers; then the
    stage ends, and a rerun continues it."""

    @model_validator(mode="after")
    def _fits(self) -> "DistributedConfig":
        if self.strategy == "none" and self.workers > 1:
            raise ValueError(
                f"{self.workers} workers need a strategy: fsdp, and for sft ddp, zero2 or zero3"
            )
        if self.gpus_per_worker not in (None, 0, 1):
            raise ValueError(f"gpus_per_worker is {self.gpus_per_worker}; it must be 0 or 1")
        for name, value in (("context", self.context), ("replicate", self.replicate)):
            if value > 1 and self.strategy != "fsdp":
                raise ValueError(
                    f"distributed.{name} {value} needs strategy fsdp, not {self.strategy}"
                )
            if self.workers % value:
                raise ValueError(
                    f"distributed.workers ({self.workers}) must be a multiple of {name} ({value})"
                )
        return self

    def seat(self) -> Seat | None:
        """What the workers reserve, where they do the training."""
        if not self.on:
            return None
        return Seat("workers", self.workers, self.cpus_per_worker, self.gpus_per_worker)

    def with_gpus(self, each: float) -> Self:
        """The same workers with a card each, or none."""
        return self.model_copy(update={"gpus_per_worker": float(each > 0)})

    def with_memory(self, share: float) -> Self:
        """A worker has a whole card."""
        return self

    @property
    def on(self) -> bool:
        """Whether Ray Train workers do the training."""
        return self.strategy != "none"

    @property
    def sharded(self) -> bool:
        """Whether the trainer core shards the model (FSDP2)."""
        return self.strategy == "fsdp"

    @property
    def data_workers(self) -> int:
        """Shares that a step's rows are cut into: those that split a row have the same ones."""
        return self.workers // self.context

    def check_rows(self, rows_per_step: int, microbatch_rows: int) -> int:
        """Microbatches a worker and step. Raises: ValueError where the rows do not share out."""
        share, rest = divmod(rows_per_step, microbatch_rows * self.data_workers)
        if rest:
            split = f" / context ({self.context})" if self.context > 1 else ""
            raise ValueError(
                f"rows_per_step ({rows_per_step}) must be a multiple of microbatch_rows "
                f"({microbatch_rows}) x distributed.workers ({self.workers}){split}"
            )
        return share

    def check_row_tokens(self, row_tokens: int) -> None:
        """Raises: ValueError where the processes that split a row would not get equal slices."""
        if row_tokens % self.context:
            raise ValueError(
                f"row_tokens ({row_tokens}) must be a multiple of distributed.context ({self.context})"
            )


class WorkersStage(StageConfig):
    """A stage whose section `distributed` says in which processes it trains."""

    if TYPE_CHECKING:  # the fields are each kind's own
        distributed: DistributedConfig
        checkpoint_every_steps: int

    @property
    def reserved(self) -> tuple[float, float | None]:
        """CPUs and GPUs of the stage's own task: none where workers reserve theirs."""
        return (0.0, 0.0) if self.distributed.on else super().reserved

    @property
    def layout_free(self) -> bool:
        """The core's checkpoints continue in any number of processes; TRL's in their own alone."""
        return self.distributed.sharded


class SpreadStage(WorkersStage):
    """What stages have that train on the core alone in several processes."""

    distributed: DistributedConfig = DistributedConfig()
    """Several processes, which share weights, optimizer and every step's rows (strategy fsdp)."""

    @model_validator(mode="after")
    def _spreads(self) -> Self:
        check_spread(self.distributed)
        return self


def check_spread(spread: DistributedConfig) -> None:
    """Raises: ValueError where a strategy is asked for that SFT alone has."""
    if spread.strategy not in ("none", "fsdp"):
        raise ValueError(
            f"distributed.strategy {spread.strategy!r} is for sft alone; use fsdp (or none)"
        )


def check_adapters(spread: DistributedConfig, *, dropout: float, base: str) -> None:
    """Raises: ValueError where adapters would draw other random numbers in every layout, or where their base
    cannot be shared."""
    if spread.on and base == "nf4":
        raise ValueError(
            f"lora.base nf4 with {spread.workers} workers: one process holds a base in 4 bits; take base: "
            "bfloat16, or leave distributed out"
        )
    if spread.sharded and dropout:
        raise ValueError(
            f"lora.dropout {dropout} with fsdp: the result would depend on the number of processes; leave it "
            "out"
        )


def load_of(config: WorkersStage) -> dict[str, Any]:
    """A stage's layout and checkpoints as the fields of a `TrainingLoad`."""
    spread = config.distributed
    return {
        "workers": spread.workers,
        "gpus": spread.gpus_per_worker if spread.on else config.gpus,
        "strategy": spread.strategy,
        "context": spread.context,
        "replicate": spread.replicate,
        "checkpoint_every_steps": config.checkpoint_every_steps,
        "keep_checkpoints": max(2, config.keep_checkpoints),
    }


def why_not(config: DistributedConfig, recipe: Recipe) -> str | None:
    """Why this recipe cannot train with several processes, or None."""
    if config.on and recipe.cluster.backend == "local":
        return (
            f"distributed.strategy {config.strategy!r} needs Ray, and cluster.backend is 'local'; "
            "use backend: ray or strategy: none"
        )
    return None
