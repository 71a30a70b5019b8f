"""The student's update: reverse KL to the teacher at every token that the student chose."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.sharding.core import Core
from model.sharding.shard import inside
from rl.loss import PolicyBatch
from rl.sample import Rollout
from rl.update import NOTHING, deal, pack, summed
from workbench.checkpoint import check_same_tensors
from workbench.distributed import group
from workbench.distributed.mesh import Mesh


def reverse_kl(student: Float[Tensor, "N V"], teacher: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(student || teacher) of each place, from logits: over the whole vocabulary, so that its gradient
    has no noise from which token was sampled there. At least fp32; the teacher gets no gradient."""
    own = student.float().log_softmax(-1)
    goal = teacher.float().log_softmax(-1).detach()
    return (own.exp() * (own - goal)).sum(-1)


def logits_of(model: nn.Module, batch: PolicyBatch) -> Float[Tensor, "N V"]:
    """What a model predicts at the places of the reply tokens, documents isolated."""
    device = next(model.parameters()).device
    found: Tensor = model(
        input_ids=batch.input_ids[None].to(device),
        seq_idx=batch.document[None].to(device),
        use_cache=False,
        logits_to_keep=batch.position.to(device),
    ).logits[0]
    return found


def sums_of(
    student: Tensor, teacher: Tensor, batch: PolicyBatch, temperature: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """The KL summed over the student's own tokens, and sums for the metrics of a step.

    temperature: of the sampling, which the engine's log-probabilities are of; the KL is at 1."""
    mask = batch.mask.to(student.device)
    kl = torch.where(mask, reverse_kl(student, teacher), 0.0).sum()
    with torch.no_grad():
        own = student.float().log_softmax(-1)
        asked = own if temperature == 1.0 else (student.float() / temperature).log_softmax(-1)
        chosen = asked.gather(-1, batch.target.to(student.device)[:, None])[:, 0]
        gap = (chosen.double() - batch.engine.to(chosen.device)).masked_fill(~mask, 0.0)
        agrees = own.argmax(-1) == teacher.argmax(-1)
        sums = {
            "kl_sum": float(kl),
            # k3 estimate of KL(engine || student), as GRPO's gate has it.
            "mismatch_sum": float((gap.expm1() - gap).sum()),
            "entropy_sum": float(torch.where(mask, -(own.exp() * own).sum(-1), 0.0).sum()),
            "agrees_sum": float((agrees & mask).sum()),
            "tokens": float(mask.sum()),
        }
    return kl, sums


class DistillUpdater:
    """Student, teacher and optimizer. mesh: how processes share both models; every one calls the same methods
    with the same replies, and takes its part of them. temperature: of the sampling."""

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        lr: float,
        grad_clip: float,
        temperature: float = 1.0,
        mesh: Mesh | None = None,
    ) -> None:
        self.student, self.teacher, self.grad_clip = student, teacher.eval(), grad_clip
        self.temperature = temperature
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0)
        self.core = Core(student, self.optimizer, mesh=mesh)
        self._rank, self._ranks = (mesh.data, mesh.data_size) if mesh else (0, 1)

    def update(
        self, rollouts: Sequence[Rollout], *, row_tokens: int, mismatch_limit: float
    ) -> dict[str, float]:
        """One optimizer step on these replies; its metrics. Raises: RuntimeError where student and engine
        disagree, before the weights move."""
        batches = pack(rollouts, row_tokens)
        total = max(sum(int(batch.mask.sum()) for batch in batches), 1)
        self.student.train()
        sums: dict[str, float] = {}
        own = batches if self.core.mesh is None else deal(batches, self._rank, self._ranks)
        for batch in own:
            kl, found = self._scored(batch)
            (kl / total).backward()  # type: ignore[no-untyped-call]
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        metrics = means_of(summed(sums))
        if not metrics["mismatch_kl"] <= mismatch_limit:
            raise RuntimeError(
                f"student and engine disagree: mean KL {metrics['mismatch_kl']:.4g}, limit "
                f"{mismatch_limit:.4g}"
            )
        norm = self.core.clip(self.grad_clip)
        self.core.update()
        return metrics | {"grad_norm": norm}

    def measure(self, rollouts: Sequence[Rollout], *, row_tokens: int) -> list[float]:
        """The mean reverse KL of each reply, by itself; no weights move."""
        self.student.eval()
        batches = [batch for rollout in rollouts for batch in pack([rollout], row_tokens)]
        found = torch.zeros(len(batches), dtype=torch.float64)
        with torch.no_grad():
            for first in range(0, len(batches), self._ranks):
                place = first + self._rank
                mine = place < len(batches)  # else a pass beside the others'
                _, sums = self._scored(batches[place] if mine else NOTHING)
                if mine:
                    found[place] = sums["kl_sum"] / max(sums["tokens"], 1.0)
        return list((found if self.core.mesh is None else group.totals(found)).tolist())

    def _scored(self, batch: PolicyBatch) -> tuple[Any, dict[str, float]]:
        with torch.no_grad():
            goal = inside(self.teacher, lambda model: logits_of(model, batch))
        own = inside(self.student, lambda model: logits_of(model, batch))
        return sums_of(own, goal, batch, self.temperature)

    def state_dict(self) -> dict[str, Any]:
        """The weights and the moments."""
        return {"model": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of `state_dict()` the weights alone. Raises: UserError where they are of another model."""
        check_same_tensors(self.student.state_dict(), state["model"])
        self.student.load_state_dict(state["model"], strict=True)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])


def means_of(sums: dict[str, float]) -> dict[str, float]:
    """Metrics of a step, a token."""
    tokens = max(sums.get("tokens", 0.0), 1.0)
    return {
        "loss": sums.get("kl_sum", 0.0) / tokens,
        "teacher_kl": sums.get("kl_sum", 0.0) / tokens,
        "mismatch_kl": sums.get("mismatch_sum", 0.0) / tokens,
        "entropy": sums.get("entropy_sum", 0.0) / tokens,
        "teacher_agrees": sums.get("agrees_sum", 0.0) / tokens,
    }
