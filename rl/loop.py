"""The GRPO loop: take a step's rollouts, update, publish the weights, in that order.

A step through four files: this one, rl.sample (rollouts with advantages), rl.update (batches, gradients, the
optimizer) and rl.loss.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from engine.protocol import Request, Sampling
from engine.shares import Post
from environments.protocol import Task
from rl.config import GrpoConfig
from rl.diagnosis import diagnose
from rl.metrics import overlap_s, rollout_metrics
from rl.prefetch import Prefetch
from rl.sample import Pool, Rollout, Sampled, Sampler, collect
from rl.turns import Mover, Turns, rest
from rl.update import Updater
from rl.weight_sync import publish
from workbench import placement
from workbench.checkpoint import Saves, rng_state, set_rng_state
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.distributed.mesh import Mesh
from workbench.distributed.state import resume, return_to
from workbench.errors import reason_of
from workbench.validation import Validation

_log = logging.getLogger(__name__)
# Enough of each to see a layer's error in both paths of an engine.
_DIAGNOSED_ROLLOUTS, _DIAGNOSED_TOKENS = 2, 16


class MismatchError(RuntimeError):
    """Trainer and engine compute different policies; training on that would be silent nonsense."""


@dataclass(frozen=True)
class PolicyShards:
    """What a model in several processes needs beside itself. reference: a frozen model for a KL."""

    mesh: Mesh
    post: Post
    reference: Any = None


@dataclass(frozen=True)
class GrpoHooks:
    """log(step, metrics, tokens), progress(step), should_stop(), record(step, groups)."""

    log: Callable[[int, dict[str, float], int], None]
    progress: Callable[[int], None]
    should_stop: Callable[[], bool]
    record: Callable[[int, Sequence[Sequence[Rollout]]], None] = lambda step, groups: None


class Grpo:
    """Policy, prompts and engine of one GRPO stage.

    Where several processes share the model (`shards`) each has one of these and calls the same methods; the
    first one samples, and all of them get what it sampled.
    """

    def __init__(
        self, model: nn.Module, sampler: Sampler | None, pool: Sequence[Conversation] | Sequence[Task],
        config: GrpoConfig,
        seed: int,
        shards: PolicyShards | None = None,
        validation: Validation | None = None,
    ) -> None:  # fmt: skip
        self.validation = validation or Validation()
        self.model, self.sampler, self.pool = model, sampler, Pool(pool, seed)
        self.config, self.seed, self.shards = config, seed, shards
        if shards is None:
            self.updater = Updater(model, config)
        else:
            self.updater = Updater(model, config, shards.mesh, shards.reference)
        self.turns = self._turns()
        self.step, self.tokens, self.position = 0, 0, 0
        self._busy: list[tuple[float, float]] = []

    def _turns(self) -> Turns:
        """Between this trainer and its engine, where they share a card so."""
        models = [m for m in (self.model, self.updater.reference) if m is not None]
        mover = Mover(models, self.updater.optimizer)
        return Turns(
            on=placement.takes_turns(self.config) and mover.card.type != "cpu",
            move=mover,
            rest=lambda: rest(self.sampler and self.sampler.engine),
        )

    def fit(self, hooks: GrpoHooks, checkpoints: Saves) -> bool:
        """Train to the end. Returns False where it was asked to stop (state is saved)."""
        self._begin(hooks, checkpoints)
        rollouts = self._prefetch() if self.sampler is not None else None
        try:
            while self.step < self.config.num_steps and not self.validation.ended:
                started = time.perf_counter()
                sampled = self._take(rollouts)
                metrics = self.measure(sampled) | {"wait_s": time.perf_counter() - started}
                metrics |= self.update(sampled)
                self.step, self.position = self.step + 1, sampled.position
                hooks.record(self.step, sampled.groups)
                metrics |= self._publish(rollouts)
                step_s = time.perf_counter() - started
                metrics |= {"step_s": step_s, "sync_share": metrics["sync_s"] / step_s}
                hooks.log(self.step, metrics, self.tokens)
                hooks.progress(self.step)
                stop = hooks.should_stop()
                if stop or self._saves():
                    checkpoints.save(self.step, self.state_dict())
                if stop:
                    return False
            return True
        finally:
            checkpoints.finish()
            if rollouts is not None:
                rollouts.close()

    def _begin(self, hooks: GrpoHooks, checkpoints: Saves) -> None:
        """The weights to the engine, and what they are worth before the first step."""
        found = self._publish(None)
        if "validation_s" in found:
            hooks.log(self.step, found, self.tokens)
            if self.validation.must_save(self.step):
                checkpoints.save(self.step, self.state_dict())

    def _saves(self) -> bool:
        due = self.step % self.config.checkpoint_every_steps == 0
        return due or self.validation.must_save(self.step)

    def return_to(self, folder: Path, step: int) -> None:
        """The weights of a kept checkpoint, in the engine as well."""
        self.turns.to_trainer()
        state = return_to(folder, step, self.model, self.updater.optimizer)
        self.load_weights(state)
        self._sync()

    def _prefetch(self) -> Prefetch:
        return Prefetch(
            self.collect,
            max_staleness=self.config.max_staleness,
            step=self.step,
            num_steps=self.config.num_steps,
            position=self.position,
        )

    def _take(self, rollouts: Prefetch | None) -> Sampled:
        """The rollouts of this step, in every process those of the first."""

        def take() -> Sampled:
            assert rollouts is not None
            return rollouts.take(self.step)

        return group.from_first(take)

    def collect(self, position: int) -> Sampled:
        """The rollouts of the step that begins at this place of the pool."""
        assert self.sampler is not None
        return collect(self.sampler, self.pool, self.config, position=position, seed=self.seed)

    def measure(self, sampled: Sampled) -> dict[str, float]:
        """The metrics of a step's rollouts. Raises: RuntimeError where too many samples failed."""
        limit = self.config.max_failed_share
        metrics = rollout_metrics(sampled, step=self.step, max_failed_share=limit)
        groups = (*sampled.groups, *sampled.dropped)
        self.tokens += sum(r.num_tokens for group in groups for r in group)
        return metrics | {"overlap_s": overlap_s(sampled, self._busy)}

    def update(self, sampled: Sampled) -> dict[str, float]:
        """The optimizer's steps on a step's rollouts. Raises: MismatchError."""
        begun = time.perf_counter()
        self.turns.to_trainer()
        metrics = {"lr": self.updater.rate(self.step)} | self.updater.update(
            sampled.groups, version=self.step, check=lambda sums: self.check_mismatch(sums, sampled)
        )
        ended = time.perf_counter()
        self._busy = [*self._busy[-self.config.max_staleness - 1 :], (begun, ended)]
        return metrics | {"update_s": ended - begun}

    def check_mismatch(self, sums: dict[str, float], sampled: Sampled) -> None:
        """Raises: MismatchError where trainer and engine disagree about the tokens of `sums`."""
        if not sums["fresh_tokens"]:
            return
        kl = sums["mismatch_kl_sum"] / sums["fresh_tokens"]
        if not kl <= self.config.mismatch_kl_limit:
            raise MismatchError(
                f"trainer and engine disagree at step {self.step + 1}: mean KL {kl:.4g}, limit "
                f"{self.config.mismatch_kl_limit:.4g}; {self._told_difference(sampled)}"
            )

    def _told_difference(self, sampled: Sampled) -> str:
        """`_difference`, or why there is none: an explanation that fails must not hide the error."""
        try:
            return self._difference(sampled)
        except Exception as error:  # noqa: BLE001 - whatever fails here, the mismatch is the news
            _log.exception("the layers of trainer and engine could not be compared")
            return f"which layers differ is not known: {type(error).__name__}: {reason_of(error)}"

    def _difference(self, sampled: Sampled) -> str:
        """Which kinds of layers differ, from some of the step's prompts sampled once more."""
        if self.sampler is None or self.shards is not None:
            return "which layers differ is told only where one process has the whole model"
        plain = Sampling(max_tokens=_DIAGNOSED_TOKENS)
        prompts = [group[0].prompt for group in sampled.groups if group][:_DIAGNOSED_ROLLOUTS]
        engine = self.sampler.engine
        self.turns.to_engine()
        traces = [t for p in prompts for t in engine.trace(Request(p, plain, seed=self.seed))]
        self.turns.to_trainer()
        return diagnose(self.model, traces, self.config.engine.dtype)

    def _publish(self, rollouts: Prefetch | None) -> dict[str, float]:
        """Give the engine the weights, validate where that is due, then let sampling go on.

        Raises: SyncError; nothing is sampled from weights that failed their checks.
        """
        found = self._sync()
        with rollouts.paused() if rollouts is not None else nullcontext():
            found |= self.validation.at(self.step, last=self.step == self.config.num_steps)
        if rollouts is not None:
            rollouts.published(self.step)
        return found

    def _sync(self) -> dict[str, float]:
        """The weights to the engine, under the number of updates as their version. Raises: SyncError."""
        begun = time.perf_counter()
        self.turns.to_trainer()
        engine = None if self.sampler is None else self.sampler.engine
        post = None if self.shards is None else self.shards.post
        config = self.config.engine
        leave = self.turns.to_engine if self.turns.on else None
        report, sent_bytes = publish(
            self.model, engine, post, version=self.step, config=config, leave=leave
        )
        errors = {} if report is None else {"probe_error": max(report)}
        took = time.perf_counter() - begun
        return errors | {"sync_s": took, "sync_mb": sent_bytes / 1e6}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "position": self.position,
            **self.updater.state_dict(),
            **self.validation.state_dict(),
            "rng": rng_state(),
        }

    def resume(self, folder: Path) -> bool:
        """Continue from the newest checkpoint in a folder, of however many processes; False without one."""
        return resume(self, folder, self.model, self.updater.optimizer)

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of `state_dict()` the weights alone."""
        self.updater.load_weights(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.updater.load_state_dict(state)
        self.validation.load_state_dict(state)
        set_rng_state(state["rng"])
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        self.position = int(state["position"])
