"""The pretraining loop: one screen, in the order in which things happen."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from model.checkpoint import check_state
from model.packed import Rows, token_loss_sum
from model.sharding.core import Core
from pretrain.config import TrainingConfig
from pretrain.optimizer import adamw
from pretrain.schedule import WSD
from workbench.checkpoint import Saves, check_same_tensors, rng_state, set_rng_state
from workbench.distributed.mesh import Mesh
from workbench.distributed.state import return_to
from workbench.validation import Validation


@dataclass(frozen=True)
class TrainingHooks:
    """What the loop calls: log(step, metrics, tokens), progress(step, tokens), should_stop()."""

    log: Callable[[int, dict[str, float], int], None]
    progress: Callable[[int, int], None]
    should_stop: Callable[[], bool]


class Objective(Protocol):
    """What a training minimises. Called from several threads at once."""

    def loss_sum(self, model: PreTrainedModel, rows: Rows, precision: str) -> torch.Tensor:
        """The loss summed over the rows' valid tokens (scalar), or this process's slice of them."""
        ...

    def take_metrics(self, num_valid: int) -> dict[str, float]:
        """More to log of the step that ended, per valid token; forgets it."""
        ...


class NextToken:
    """Cross entropy of the next token."""

    def loss_sum(self, model: PreTrainedModel, rows: Rows, precision: str) -> torch.Tensor:
        """See `token_loss_sum`."""
        return token_loss_sum(model, rows, precision)

    def take_metrics(self, num_valid: int) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}


class Batches(Protocol):
    """Where a step's rows come from, the same in every process: pretrain.rows, pretrain.prefetch."""

    def batch(self, num_rows: int, progress: float) -> Rows:
        """The next rows of the whole step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


class Trainer:
    """Model, optimizer, data and schedule of one training on rows, and their common state."""

    def __init__(
        self,
        model: PreTrainedModel,
        stream: Batches,
        config: TrainingConfig,
        objective: Objective | None = None,
        mesh: Mesh | None = None,
        validation: Validation | None = None,
    ) -> None:
        self.model, self.stream, self.config = model, stream, config
        self.validation = validation or Validation()
        self.objective = objective or NextToken()
        schedule = config.schedule
        total = config.num_steps * config.step_tokens
        self.schedule = WSD(
            peak_lr=schedule.peak_lr,
            min_lr=schedule.min_lr,
            warmup_tokens=round(total * schedule.warmup_share),
            decay_tokens=round(total * schedule.decay_share),
            total_tokens=total,
            shape=schedule.shape,
        )
        optimizer = adamw(
            model.named_parameters(),
            lr=schedule.peak_lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.core = Core(model, optimizer, mesh=mesh, threads=config.threads)
        self.optimizer = optimizer
        self.step = 0

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.config.step_tokens

    def fit(self, hooks: TrainingHooks, checkpoints: Saves) -> bool:
        """Train to the end. Returns False where it was asked to stop (state is saved)."""
        self.model.train()
        self._begin(hooks, checkpoints)
        stop = False
        while self.step < self.config.num_steps and not stop and not self.validation.ended:
            started = time.perf_counter()
            batch = self.stream.batch(self.config.rows_per_step, self.step / self.config.num_steps)
            metrics = self.train_step(batch)
            self.step += 1
            metrics["tokens_per_s"] = self.config.step_tokens / (time.perf_counter() - started)
            last = self.step == self.config.num_steps
            found = self.validation.at(self.step, last=last)
            if found or last or self.step % self.config.log_every_steps == 0:
                hooks.log(self.step, metrics | found, self.tokens)
            hooks.progress(self.step, self.tokens)
            stop = hooks.should_stop()
            due = self.step % self.config.checkpoint_every_steps == 0
            if stop or due or self.validation.must_save(self.step):
                checkpoints.save(self.step, self.state_dict())
        checkpoints.finish()
        return not stop

    def _begin(self, hooks: TrainingHooks, checkpoints: Saves) -> None:
        """What the model is worth before the first step."""
        found = self.validation.at(self.step)
        if found:
            hooks.log(self.step, found, self.tokens)
        if found and self.validation.must_save(self.step):
            checkpoints.save(self.step, self.state_dict())

    def return_to(self, folder: Path, step: int) -> None:
        """The weights of a kept checkpoint. Every process of the training must call it."""
        self.load_weights(return_to(folder, step, self.model, self.optimizer))

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of `state_dict()` the weights alone. Raises: UserError where they are of another model."""
        check_same_tensors(self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"], strict=True)

    def train_step(self, batch: Rows) -> dict[str, float]:
        """One optimizer step on the rows of the whole step, of which this process takes its share.

        The loss is the mean over the step's valid tokens, however split.
        """
        lr = self.schedule.lr(self.tokens)
        num_valid = batch.num_valid
        mine = Rows(*map(self.core.share, batch))
        losses = [
            partial(self._share, part, num_valid)
            for part in _microbatches(mine, self.config.microbatch_rows)
        ]
        metrics = self.core.step(
            losses, lr=lr, grad_clip=self.config.grad_clip, number=self.step + 1
        )
        return metrics | {"valid_tokens": num_valid} | self.objective.take_metrics(num_valid)

    def _share(self, part: Rows, num_valid: int) -> torch.Tensor:
        """A microbatch's part of the step's mean loss."""
        return self.objective.loss_sum(self.model, part, self.config.computed) / num_valid

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise equal continuation needs."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stream": self.stream.state_dict(),
            **self.validation.state_dict(),
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. UserError where it is not of this model and optimizer."""
        check_state(self.model, self.optimizer, state)
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.validation.load_state_dict(state)
        set_rng_state(state["rng"])
        self.step = int(state["step"])


def _microbatches(batch: Rows, num_rows: int) -> list[Rows]:
    count = batch.input_ids.shape[0]
    return [Rows(*(t[i : i + num_rows] for t in batch)) for i in range(0, count, num_rows)]
