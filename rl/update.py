"""One policy update: rollouts packed into batches, gradients summed over them and over trainers, one step of
the optimizer for each part of the rollouts."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engine.protocol import Completion
from model.layers import context
from model.layers.routing import Routing
from model.logprobs import Truncation, model_logprobs
from model.lora import adapters_off, load_trained_state, trained_state
from model.packed import autocast
from model.sharding.core import Core
from model.sharding.shard import inside, set_activations
from rl.config import GrpoConfig
from rl.custom import custom_loss
from rl.loss import LossSettings, PolicyBatch, policy_loss
from rl.optimizer import make_optimizer, rate_share
from rl.sample import Rollout
from workbench.checkpoint import check_same_tensors
from workbench.distributed import group
from workbench.distributed.mesh import Mesh

# A reference that cannot sample a token still says how unlikely it is: the mask of the policy, not the
# reference's support, decides what counts.
_LEAST_REFERENCE = -100.0


Precision = Literal["fp32", "bf16"]


class Segment(NamedTuple):
    """A reply with the ids that stand before it. begins: it is the first of its document."""

    before: list[int]
    reply: Completion
    begins: bool


def segments(rollout: Rollout) -> list[Segment]:
    """The replies of an episode, each behind the very ids that it was sampled from.

    A turn whose prompt begins with all that stood and was said before goes on in that document; one
    that shows the past otherwise (a format drops older traces) begins another.
    """
    out, seen = list[Segment](), list[int]()
    for turn in rollout.turns:
        goes_on = bool(out) and turn.prompt[: len(seen)] == seen
        before = turn.prompt[len(seen) :] if goes_on else turn.prompt
        out.append(Segment(before, turn.completion, not goes_on))
        seen = [*turn.prompt, *turn.completion.token_ids]
    return out


def pack(rollouts: Sequence[Rollout], row_tokens: int) -> list[PolicyBatch]:
    """Batches of at most `row_tokens` (a longer rollout has one of its own), in order; nothing is padded."""
    batches, current, used = [], list[Rollout](), 0
    for rollout in rollouts:
        length = sum(len(s.before) + len(s.reply.token_ids) for s in segments(rollout))
        if current and used + length > row_tokens:
            batches.append(_packed(current))
            current, used = [], 0
        current.append(rollout)
        used += length
    return [*batches, _packed(current)] if current else batches


def _packed(rollouts: Sequence[Rollout]) -> PolicyBatch:
    ids, document, position, sequence = list[int](), list[int](), list[int](), list[int]()
    target, mask, version = list[int](), list[bool](), list[int]()
    engine, advantage = list[float](), list[float]()
    documents = 0
    for number, rollout in enumerate(rollouts):
        for (before, done, begins), value in zip(
            segments(rollout), rollout.turn_advantages, strict=True
        ):
            size = len(done.token_ids)
            if not len(done.logprobs) == len(done.forced) == len(done.versions) == size:
                raise ValueError(
                    f"a reply of {size} tokens lacks log-probabilities, marks or versions"
                )
            documents += begins
            first = len(ids) + len(before)
            position += range(first - 1, first - 1 + size)
            target += done.token_ids
            sequence += [number] * size
            engine += done.logprobs
            advantage += [value or 0.0] * size
            mask += [value is not None and not forced for forced in done.forced]
            version += done.versions
            ids += [*before, *done.token_ids]
            document += [documents - 1] * (len(before) + size)
    return PolicyBatch(
        input_ids=torch.tensor(ids),
        document=torch.tensor(document, dtype=torch.int32),
        position=torch.tensor(position, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        sequence=torch.tensor(sequence, dtype=torch.long),
        engine=torch.tensor(engine, dtype=torch.float64),
        advantage=torch.tensor(advantage, dtype=torch.float64),
        mask=torch.tensor(mask, dtype=torch.bool),
        version=torch.tensor(version, dtype=torch.long),
        num_sequences=len(rollouts),
    )


class Totals(NamedTuple):
    """What the whole update counts, over all batches and trainers: it normalises the loss."""

    tokens: int
    sequences: int


def totals_of(batches: Sequence[PolicyBatch], *, masked: int = 0) -> Totals:
    """The counts of some batches, and of `masked` replies beside them that carry no loss."""
    sequences = sum(b.num_sequences for b in batches) + masked
    return Totals(sum(int(b.mask.sum()) for b in batches), sequences)


def reply_logprobs(
    model: Any, batch: PolicyBatch, truncation: Truncation, precision: Precision = "fp32"
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Log-probability of each reply token under the truncated policy, and whether it can sample it."""
    with autocast(model, precision):
        return inside(
            model,
            lambda m: model_logprobs(
                m, batch.input_ids, batch.document, batch.position, batch.target, truncation
            ),
        )


def frozen_logprobs(
    model: nn.Module,
    batches: Sequence[PolicyBatch],
    truncation: Truncation,
    precision: Precision = "fp32",
) -> list[Float[Tensor, " _"]]:
    """[N] for each batch under the model as it is, -inf where it cannot sample the token."""
    found = []
    with torch.no_grad():
        for batch in batches:
            values, supported = reply_logprobs(model, batch, truncation, precision)
            found.append(torch.where(supported, values, -torch.inf))
    return found


def accumulate(
    model: nn.Module,
    batches: Sequence[PolicyBatch],
    settings: LossSettings,
    truncation: Truncation,
    *,
    totals: Totals,
    version: int,
    precision: Precision = "fp32",
    routing: Routing | None = None,
) -> dict[str, float]:
    """Add the gradient of these batches to the model's; returns the loss and the metrics' sums.

    `version` is the policy version of the step: only replies sampled wholly by it show how far
    trainer and engine differ in numerics.
    """
    sums: dict[str, float] = {}
    for packed in batches:
        if routing is not None:
            routing.muted = not packed.num_sequences
        new, supported = reply_logprobs(model, packed, truncation, precision)
        batch = packed.like(new)
        if batch.old is None:
            batch = replace(batch, old=torch.where(supported, new.detach(), -torch.inf))
        stale = torch.zeros(batch.num_sequences, dtype=torch.bool, device=new.device)
        stale[batch.sequence[batch.version != version]] = True
        batch = replace(batch, fresh=~stale[batch.sequence])
        loss, metrics = policy_loss(
            new, batch, settings, total_tokens=totals.tokens, total_sequences=totals.sequences
        )
        loss.backward()  # type: ignore[no-untyped-call]
        metrics["loss"] = float(loss.detach())
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


# A row that nobody learns from: every process must run as many passes as the others.
NOTHING = PolicyBatch(
    input_ids=torch.zeros(2, dtype=torch.long),
    document=torch.zeros(2, dtype=torch.int32),
    position=torch.zeros(0, dtype=torch.long),
    target=torch.zeros(0, dtype=torch.long),
    sequence=torch.zeros(0, dtype=torch.long),
    engine=torch.zeros(0, dtype=torch.float64),
    advantage=torch.zeros(0, dtype=torch.float64),
    mask=torch.zeros(0, dtype=torch.bool),
    version=torch.zeros(0, dtype=torch.long),
    num_sequences=0,
)


def deal(batches: Sequence[PolicyBatch], rank: int, ranks: int) -> list[PolicyBatch]:
    """The batches of one of `ranks` processes: as many as any other has, longest first, so that rows of
    about one length are worked on at the same time. Layers gather their weights together, so the longest
    of a round is what the round takes."""
    order = sorted(range(len(batches)), key=lambda place: -len(batches[place].input_ids))
    mine = [batches[place] for place in order[rank::ranks]]
    rounds = -(-len(batches) // ranks)
    return mine + [NOTHING] * (rounds - len(mine))


def summed(sums: dict[str, float], *, counts: bool = True) -> dict[str, float]:
    """The sums over the batches of all processes; gradients are added up by the sharding itself.

    counts: whether this process's are among them: of those that share a row one counts it.
    """
    return {name: group.total(sums[name] if counts else 0.0) for name in sorted(sums)}


class Updater:
    """Policy, frozen reference and optimizer: the weights of a stage and what moves them."""

    def __init__(
        self, model: Any, config: GrpoConfig, mesh: Mesh | None = None, reference: Any = None
    ) -> None:
        """mesh: where the model is sharded. reference: a frozen model for the KL, where it cannot be
        copied from this one."""
        self.model, self.config, self.mesh = model, config, mesh
        self.optimizer = make_optimizer(model, config)
        self.core = Core(model, self.optimizer, mesh=mesh)
        set_activations(model, config.activations)
        self.routing = Routing(model, coefficient=config.router_loss)
        written = config.loss.model_dump(exclude={"variant", "function"})
        own = custom_loss(config.loss.function) if config.loss.function else None
        self.settings = LossSettings(**written, max_tokens=config.max_tokens, function=own)
        self.truncation = Truncation(config.temperature, config.top_p, config.top_k, config.min_p)
        # Of the weights as they came: a resumed stage loads its own state afterwards.
        self.reference = reference
        if config.lora is None and self.settings.kl_coefficient and reference is None:
            self.reference = copy.deepcopy(model)

    def update(
        self,
        groups: Sequence[list[Rollout]],
        *,
        version: int,
        check: Callable[[dict[str, float]], None],
    ) -> dict[str, float]:
        """`updates_per_step` optimizer steps, each on its part of the groups; returns their metrics.

        `check` sees the sums of each part before the weights move, and raises to stop that.
        """
        shares = split(groups, self.config.updates_per_step)
        parts = [
            pack(
                [r for g in share for r in g if r.advantage is not None],
                self.config.microbatch_tokens,
            )
            for share in shares
        ]
        self.model.train()
        for part in self.optimizer.param_groups:
            part["lr"] = self.rate(version)
        # All processes pack the whole step, so that they count alike; each takes its batches.
        own = [self._own(part) for part in parts]
        # Weights that move between the updates of a step must not move the policy that sampled.
        scored = [
            part
            if len(parts) == 1 and not self.settings.kl_coefficient
            else self._scored(part, keep_old=len(parts) > 1)
            for part in own
        ]
        metrics: dict[str, float] = {}
        norms = []
        for part, whole_part, share in zip(scored, parts, shares, strict=True):
            if not whole_part:
                continue  # no group of this part can teach anything
            masked = sum(r.masked for found in share for r in found)
            totals = totals_of(whole_part, masked=masked)
            self.routing.begin(sum(len(batch.input_ids) for batch in whole_part))
            sums = accumulate(
                self.model, part, self.settings, self.truncation, totals=totals, version=version,
                precision=self.config.precision, routing=self.routing,
            )  # fmt: skip
            sums = summed(sums, counts=context.counts(self.model))
            check(sums)
            norms.append(self.step())
            metrics = {k: metrics.get(k, 0.0) + v for k, v in sums.items()}
        return update_metrics(metrics, norms) | self.routing.metrics(group.totals)

    def _own(self, batches: list[PolicyBatch]) -> list[PolicyBatch]:
        if self.mesh is None:
            return batches
        return deal(batches, self.mesh.data, self.mesh.data_size)

    def _scored(self, batches: list[PolicyBatch], *, keep_old: bool) -> list[PolicyBatch]:
        """With what the policy as it is, and the reference, say of the reply tokens."""
        olds: Sequence[Any] = [None] * len(batches)
        references: Sequence[Any] = [None] * len(batches)
        if keep_old:
            olds = self._frozen(self.model, batches)
        if self.settings.kl_coefficient:
            references = [values.clamp(min=_LEAST_REFERENCE) for values in self._referred(batches)]
        return [
            replace(batch, old=old, reference=reference)
            for batch, old, reference in zip(batches, olds, references, strict=True)
        ]

    def _referred(self, batches: list[PolicyBatch]) -> list[Float[Tensor, " _"]]:
        """What the reference says: the model without its adapters, or the copy that was kept."""
        if self.reference is not None:
            return self._frozen(self.reference, batches)
        with adapters_off(self.model):
            return self._frozen(self.model, batches)

    def _frozen(self, model: nn.Module, batches: list[PolicyBatch]) -> list[Float[Tensor, " _"]]:
        return frozen_logprobs(model, batches, self.truncation, self.config.precision)

    def step(self) -> float:
        """Clip the gradients and move the weights; returns the norm before clipping."""
        norm = self.core.clip(self.config.grad_clip)
        self.core.update()
        return norm

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        config = self.config
        share = rate_share(step, config.num_steps, config.warmup_share, config.lr_scheduler)
        return config.lr * share

    def state_dict(self) -> dict[str, Any]:
        """What is trained of the weights, and the moments."""
        return {"model": trained_state(self.model), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of `state_dict()` the weights alone. Raises: UserError where they are of another model."""
        check_same_tensors(self.state_dict()["model"], state["model"])
        load_trained_state(self.model, state["model"])


def split(groups: Sequence[list[Rollout]], parts: int) -> list[list[list[Rollout]]]:
    """`parts` runs of whole groups, as equal in number as can be."""
    cuts = [round(i * len(groups) / parts) for i in range(parts + 1)]
    return [list(groups[a:b]) for a, b in itertools.pairwise(cuts)]


def update_metrics(sums: dict[str, float], norms: Sequence[float]) -> dict[str, float]:
    """Of a step, from the sums over its batches and the norm of each of its updates."""
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
