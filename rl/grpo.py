"""The GRPO loop: take a batch of rollouts, update, publish the weights, in that order."""

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.protocol import Request, Sampling, sample_seed
from environments.protocol import Task
from rl.config import GrpoConfig
from rl.diagnosis import diagnose
from rl.feed import Batch, Feed, overlap_s, staleness, timed
from rl.logprobs import pack_rollouts
from rl.loss import LossSettings
from rl.prompts import Pool
from rl.record import part_metrics
from rl.rollout import Rollout, Sampler
from rl.truncation import Truncation
from rl.update import Scored, accumulate, frozen_logprobs, sum_gradients, totals_of
from rl.weight_sync import sync
from workbench.checkpoint import Checkpoints, rng_state, set_rng_state
from workbench.conversation import Conversation

# Enough of each to see a layer's error in both paths of an engine.
_DIAGNOSED_ROLLOUTS, _DIAGNOSED_TOKENS = 2, 16


class MismatchError(RuntimeError):
    """Trainer and engine compute different policies; training on that would be silent nonsense."""


@dataclass(frozen=True)
class Hooks:
    """log(step, metrics, tokens), progress(step), should_stop(), record(step, groups)."""

    log: Callable[[int, dict[str, float], int], None]
    progress: Callable[[int], None]
    should_stop: Callable[[], bool]
    record: Callable[[int, Sequence[Sequence[Rollout]]], None] = lambda step, groups: None


class Grpo:
    """Policy, optimizer, prompts and engine of one GRPO stage."""

    def __init__(
        self, model: nn.Module, sampler: Sampler, pool: Sequence[Conversation] | Sequence[Task],
        config: GrpoConfig,
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.sampler, self.pool = model, sampler, Pool(pool, seed)
        self.config, self.seed = config, seed
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
        own = config.loss.model_dump(exclude={"variant"})
        self.settings = LossSettings(**own, max_tokens=config.max_tokens)
        self.truncation = Truncation(config.temperature, config.top_p, config.top_k, config.min_p)
        # Of the weights as they came: a resumed stage loads its own state afterwards.
        self.reference = copy.deepcopy(model) if self.settings.kl_coefficient else None
        self.step, self.tokens, self.position = 0, 0, 0
        self._busy: list[tuple[float, float]] = []

    def fit(self, hooks: Hooks, checkpoints: Checkpoints) -> bool:
        """Train to the end. Returns False where it was asked to stop (state is saved)."""
        self._publish(None)
        feed = Feed(
            self._collect,
            max_staleness=self.config.max_staleness,
            step=self.step,
            num_steps=self.config.num_steps,
            position=self.position,
        )
        try:
            while self.step < self.config.num_steps:
                started = time.perf_counter()
                batch = feed.take(self.step)
                metrics = self._metrics(batch) | {"wait_s": time.perf_counter() - started}
                metrics |= self._update(batch)
                self.step, self.position = self.step + 1, batch.position
                hooks.record(self.step, batch.groups)
                metrics |= self._publish(feed)
                step_s = time.perf_counter() - started
                metrics |= {"step_s": step_s, "sync_share": metrics["sync_s"] / step_s}
                hooks.log(self.step, metrics, self.tokens)
                hooks.progress(self.step)
                stop = hooks.should_stop()
                if stop or self.step % self.config.checkpoint_every_steps == 0:
                    checkpoints.save(self.step, self.state_dict())
                if stop:
                    return False
            return True
        finally:
            feed.close()

    def _publish(self, feed: Feed | None) -> dict[str, float]:
        """Give the engine the weights, under the number of updates as their version.

        Raises: SyncError; nothing is sampled from weights that failed their checks.
        """
        begun = time.perf_counter()
        report = sync(
            self.model,
            self.sampler.engine,
            version=self.step,
            longest=self.config.engine.max_model_len,
            cached=self.config.engine.prefix_caching,
        )
        if feed is not None:
            feed.published(self.step)
        errors = {} if report is None else {"probe_error": max(report)}
        return errors | {"sync_s": time.perf_counter() - begun}

    def _collect(self, step: int, position: int) -> Batch:
        """Sample the batch of a step; with dynamic sampling until enough groups teach something."""

        def collect() -> tuple[list[list[Rollout]], list[list[Rollout]], int]:
            wanted, start = self.config.prompts_per_step, position
            groups, dropped = list[list[Rollout]](), list[list[Rollout]]()
            rounds = self.config.dynamic_rounds if self.config.dynamic_sampling else 1
            for _ in range(rounds):
                questions = self.pool.take(start, wanted - len(groups))
                seed = sample_seed(self.seed, "grpo", start)
                found = self.sampler.roll_out(questions, seed=seed)
                start += len(questions)
                keep_all = not self.config.dynamic_sampling
                for group in found:
                    (groups if keep_all or is_mixed(group) else dropped).append(group)
                if len(groups) == wanted:
                    break
            return groups, dropped, start

        return timed(collect)

    def _metrics(self, batch: Batch) -> dict[str, float]:
        """Of all that was sampled: the groups that are kept say neither how good the policy is nor
        what broke. Raises: RuntimeError where too many samples failed."""
        sampled = [*batch.groups, *batch.dropped]
        rollouts = [r for group in sampled for r in group]
        rewards = [r.reward for r in rollouts if r.reward is not None]
        failed = 1 - len(rewards) / max(len(rollouts), 1)
        if failed > self.config.max_failed_share:
            statuses = sorted({r.status for r in rollouts if r.reward is None})
            raise RuntimeError(
                f"{failed:.0%} of the step's samples failed ({', '.join(statuses)[:200]}); the limit "
                f"max_failed_share is {self.config.max_failed_share:.0%}"
            )
        lengths = [r.num_tokens for r in rollouts]
        self.tokens += sum(lengths)
        size = max(len(rollouts), 1)
        checked = [r.checked for r in rollouts if r.checked is not None]
        watch = {"checker_reward": sum(checked) / len(checked)} if checked else {}
        return (
            watch
            | part_metrics(rollouts)
            | {
                "reward": sum(rewards) / max(len(rewards), 1),
                "failed_share": failed,
                "mixed_groups": sum(map(is_mixed, sampled)) / max(len(sampled), 1),
                "reply_tokens": sum(lengths) / size,
                "truncated": sum(r.truncated for r in rollouts) / size,
                "forced_share": sum(sum(t.completion.forced) for r in rollouts for t in r.turns)
                / max(sum(lengths), 1),
                "sampled_groups": float(len(sampled)),
                "staleness": staleness(batch.groups, self.step),
                "rollout_s": batch.ended - batch.began,
                "overlap_s": overlap_s(batch, self._busy),
            }
        )

    def _update(self, batch: Batch) -> dict[str, float]:
        """The optimizer's steps on one batch, over packed rows."""
        begun = time.perf_counter()
        shares = split(batch.groups, self.config.updates_per_step)
        parts = [
            pack_rollouts(
                [r for g in share for r in g if r.advantage is not None], self._row_tokens
            )
            for share in shares
        ]
        self.model.train()
        # Weights that move between the updates of a step must not move the policy that sampled.
        scored = [
            [Scored(row) for row in part]
            if len(parts) == 1 and self.reference is None
            else self._scored(part, keep_old=len(parts) > 1)
            for part in parts
        ]
        metrics: dict[str, float] = {}
        norms = []
        for part, share in zip(scored, shares, strict=True):
            if not part:
                continue  # no group of this part can teach anything
            masked = sum(r.masked for group in share for r in group)
            totals = totals_of([s.row for s in part], masked=masked)
            sums = accumulate(
                self.model, part, self.settings, self.truncation, totals=totals, version=self.step
            )
            sums = sum_gradients(self.model, sums)
            self._gate(sums, batch)
            norms.append(self._optimize())
            metrics = {k: metrics.get(k, 0.0) + v for k, v in sums.items()}
        ended = time.perf_counter()
        self._busy = [*self._busy[-self.config.max_staleness - 1 :], (begun, ended)]
        return _update_metrics(metrics, norms) | {"update_s": ended - begun}

    @property
    def _row_tokens(self) -> int:
        return self.config.microbatch_tokens

    def _scored(self, rows: list[Any], *, keep_old: bool) -> list[Scored]:
        olds: list[Any] = [None] * len(rows)
        references: list[Any] = [None] * len(rows)
        if keep_old:
            olds = frozen_logprobs(self.model, rows, self.truncation)
        if self.reference is not None:
            # Finite everywhere: the mask of the policy, not the reference's support, decides.
            references = [
                v.clamp(min=-100.0)
                for v in frozen_logprobs(self.reference, rows, self.truncation)
            ]  # fmt: skip
        return [Scored(*parts) for parts in zip(rows, olds, references, strict=True)]

    def _gate(self, sums: dict[str, float], batch: Batch) -> None:
        if not sums["fresh_tokens"]:
            return
        kl = sums["mismatch_kl_sum"] / sums["fresh_tokens"]
        if not kl <= self.config.mismatch_kl_limit:
            raise MismatchError(
                f"trainer and engine disagree at step {self.step + 1}: mean KL {kl:.4g}, limit "
                f"{self.config.mismatch_kl_limit:.4g}; {self._difference(batch)}"
            )

    def _difference(self, batch: Batch) -> str:
        """Which kinds of layers differ, from some of the step's prompts sampled once more."""
        plain = Sampling(max_tokens=_DIAGNOSED_TOKENS)
        prompts = [group[0].prompt for group in batch.groups if group][:_DIAGNOSED_ROLLOUTS]
        engine = self.sampler.engine
        traces = [t for p in prompts for t in engine.trace(Request(p, plain, seed=self.seed))]
        return diagnose(self.model, traces, self.config.engine.dtype)

    def _optimize(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "position": self.position,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        set_rng_state(state["rng"])
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        self.position = int(state["position"])


def is_mixed(group: Sequence[Rollout]) -> bool:
    """Whether the rewards of a group differ: only then does it teach anything."""
    return len({r.reward for r in group if r.reward is not None}) > 1


def split(groups: Sequence[list[Rollout]], parts: int) -> list[list[list[Rollout]]]:
    """`parts` runs of whole groups, as equal in number as can be."""
    cuts = [round(i * len(groups) / parts) for i in range(parts + 1)]
    return [list(groups[a:b]) for a, b in itertools.pairwise(cuts)]


def _update_metrics(sums: dict[str, float], norms: Sequence[float]) -> dict[str, float]:
    if not norms:
        return {"loss": 0.0, "grad_norm": 0.0}
    tokens = max(sums["tokens"], 1.0)
    metrics = {
        "loss": sums["loss"] / len(norms),
        "grad_norm": sum(norms) / len(norms),
        "clip_fraction": sums["clipped_sum"] / tokens,
        "unsupported": sums["unsupported_sum"] / tokens,
        "entropy": sums["entropy_sum"] / max(tokens - sums["unsupported_sum"], 1.0),
        "correction_weight": sums["weight_sum"] / tokens,
    }
    if sums["fresh_tokens"]:
        metrics["mismatch_kl"] = sums["mismatch_kl_sum"] / sums["fresh_tokens"]
    return metrics
