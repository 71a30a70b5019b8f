"""The GRPO loop, strictly on-policy: sample, score, update, sync, in that order."""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rl.config import GrpoConfig
from rl.logprobs import PackedRow, pack_rollouts, per_token, reply_logprobs
from rl.loss import LossSettings, PolicyBatch, policy_loss
from rl.rollout import Rollout, Sampler
from workbench.checkpoint import Checkpoints, rng_state, set_rng_state
from workbench.conversation import Conversation
from workbench.engine.protocol import Engine


class MismatchError(RuntimeError):
    """Trainer and engine compute different policies; training on that would be silent nonsense."""


@dataclass(frozen=True)
class Hooks:
    """log(step, metrics, tokens), progress(step), should_stop()."""

    log: Callable[[int, dict[str, float], int], None]
    progress: Callable[[int], None]
    should_stop: Callable[[], bool]


class Grpo:
    """Policy, optimizer, prompts and engine of one GRPO stage."""

    def __init__(
        self, model: nn.Module, sampler: Sampler, pool: Sequence[Conversation], config: GrpoConfig,
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.sampler, self.pool = model, sampler, pool
        self.config, self.seed = config, seed
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
        own = config.loss.model_dump()
        self.settings = LossSettings(**own, max_tokens=config.max_tokens)
        self.step, self.tokens = 0, 0

    def fit(self, hooks: Hooks, checkpoints: Checkpoints) -> bool:
        """Train to the end. Returns False where it was asked to stop (state is saved)."""
        sync(self.model, self.sampler.engine, version=self.step)
        while self.step < self.config.num_steps:
            started = time.perf_counter()
            groups = self.sampler.roll_out(self._questions(), seed=self.seed + self.step)
            sampled_s = time.perf_counter() - started
            metrics = self._metrics(groups)
            metrics |= self._update([r for group in groups for r in group])
            self.step += 1
            begun = time.perf_counter()
            sync(self.model, self.sampler.engine, version=self.step)
            metrics |= {
                "sync_s": time.perf_counter() - begun,
                "rollout_s": sampled_s,
                "step_s": time.perf_counter() - started,
            }
            hooks.log(self.step, metrics, self.tokens)
            hooks.progress(self.step)
            stop = hooks.should_stop()
            if stop or self.step % self.config.checkpoint_every_steps == 0:
                checkpoints.save(self.step, self.state_dict())
            if stop:
                return False
        return True

    def _questions(self) -> list[Conversation]:
        """The step's prompts: the pool in a new order each pass, so a resume needs only the step."""
        n = self.config.prompts_per_step
        wanted = range(self.step * n, (self.step + 1) * n)
        out = []
        for epoch, places in itertools.groupby(wanted, key=lambda i: i // len(self.pool)):
            order = list(range(len(self.pool)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            out += [self.pool[order[i % len(self.pool)]] for i in places]
        return out

    def _metrics(self, groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
        rollouts = [r for group in groups for r in group]
        rewards = [r.reward for r in rollouts if r.reward is not None]
        failed = 1 - len(rewards) / len(rollouts)
        if failed > self.config.max_failed_share:
            statuses = sorted({r.status for r in rollouts if r.reward is None})
            raise RuntimeError(
                f"{failed:.0%} of the step's samples failed ({', '.join(statuses)[:200]}); the limit "
                f"max_failed_share is {self.config.max_failed_share:.0%}"
            )
        mixed = [len({r.reward for r in g if r.reward is not None}) > 1 for g in groups]
        lengths = [len(r.completion.token_ids) for r in rollouts]
        self.tokens += sum(lengths)
        return {
            "reward": sum(rewards) / len(rewards),
            "failed_share": failed,
            "mixed_groups": sum(mixed) / len(mixed),
            "reply_tokens": sum(lengths) / len(lengths),
            "truncated": sum(r.completion.finish_reason == "length" for r in rollouts)
            / len(rollouts),
        }

    def _update(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """One optimizer step over all packed rows of the step."""
        usable = [r for r in rollouts if r.advantage is not None]
        rows = pack_rollouts(usable, self.config.microbatch_tokens)
        parts = list(per_token(usable, rows))
        total = sum(int(mask.sum()) for *_, mask in parts)
        self.model.train()
        sums: dict[str, float] = {"mismatch_kl_sum": 0.0, "clipped_sum": 0.0, "tokens": 0.0}
        loss_value = 0.0
        for row, engine, advantage, mask in parts:
            new = reply_logprobs(self.model, row, self.config.temperature)
            batch = _batch(row, new, engine.to(new), advantage.to(new), mask.to(new.device))
            loss, metrics = policy_loss(
                batch, self.settings, total_tokens=total, total_sequences=len(usable)
            )
            loss.backward()
            loss_value += float(loss.detach())
            sums = {name: sums[name] + metrics[name] for name in sums}
        kl = sums["mismatch_kl_sum"] / max(sums["tokens"], 1)
        if not kl <= self.config.mismatch_kl_limit:
            raise MismatchError(
                f"trainer and engine disagree at step {self.step + 1}: mean KL {kl:.4g}, limit "
                f"{self.config.mismatch_kl_limit:.4g}; check dtype, weight sync and kernels"
            )
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "loss": loss_value,
            "grad_norm": float(norm),
            "mismatch_kl": kl,
            "clip_fraction": sums["clipped_sum"] / max(sums["tokens"], 1),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {
            "step": self.step,
            "tokens": self.tokens,
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


def _batch(
    row: PackedRow,
    new: torch.Tensor,
    engine: torch.Tensor,
    advantage: torch.Tensor,
    mask: torch.Tensor,
) -> PolicyBatch:
    """Strictly on-policy: the weights that sampled are the weights now, so old is new, detached."""
    owners = torch.unique_consecutive(row.rollout, return_inverse=True)
    return PolicyBatch(
        new, new.detach(), engine, advantage, mask, owners[1].to(new.device), len(owners[0])
    )


def sync(model: nn.Module, engine: Engine, *, version: int) -> None:
    """Give the engine every tensor of the policy, under its Hugging Face name."""
    state = model.state_dict()
    engine.update_weights(
        [(name, tensor.detach().cpu().clone()) for name, tensor in state.items()], version=version
    )
