"""What the loop keeps from step to step: the sampled policy, the engine's weights, the place in the pool."""

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.update
from engine.protocol import Completion
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model
from model.logprobs import Truncation
from rl.advantage import advantages
from rl.config import GrpoConfig
from rl.loop import Grpo, GrpoHooks, MismatchError
from rl.loss import PolicyBatch
from rl.sample import Rollout
from rl.update import frozen_logprobs, pack
from workbench.checkpoint import Checkpoints
from workbench.conversation import Conversation


class Holder(ScriptedEngine):
    """Keeps what it was given at each sync."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, sample: [5], lambda ids: "")
        self.given: list[tuple[int, dict[str, torch.Tensor]]] = []

    def update_weights(
        self, tensors: Iterable[tuple[str, torch.Tensor]], *, version: int, proof: Any = None
    ) -> None:
        self.given.append((version, {name: tensor.clone() for name, tensor in tensors}))
        self.version = version


class Players:
    """In place of a Sampler: mixed rewards, tokens of the engine's version, prompts that say who asked."""

    def __init__(self) -> None:
        self.engine = Holder()
        self.asked: list[int] = []

    def roll_out(self, questions: Sequence[Conversation], *, seed: int) -> list[list[Rollout]]:
        self.asked += [int(q.id) for q in questions]
        return [self.group(int(q.id)) for q in questions]

    def group(self, number: int) -> list[Rollout]:
        made = random.Random(number)
        # Every third prompt teaches nothing, so that a batch's end cannot be told from its step.
        rewards = [1.0, 1.0 if number % 3 == 0 else 0.0]
        out = []
        for reward, gain in zip(rewards, advantages(rewards, "mean"), strict=True):
            ids = [made.randrange(5, 300) for _ in range(4)]
            done = Completion(ids, [-5.77] * 4, "", "stop", [False] * 4, [self.engine.version] * 4)
            out.append(Rollout([4, 5 + number], done, reward, gain, "ok"))
        return out


def grpo(**settings: Any) -> Grpo:
    shape = build_config(
        pattern="M-*-", hidden_size=32, intermediate_size=64, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=320,
    )  # fmt: skip
    world = {"type": "world", "domain": "math"}
    base: dict[str, Any] = {
        "kind": "grpo", "prompts": world, "held_out": world, "num_steps": 4, "prompts_per_step": 2,
        "group_size": 2, "mismatch_kl_limit": 100.0, "lr": 1e-2, "dynamic_sampling": True,
        "dynamic_rounds": 9,
    }  # fmt: skip
    config = GrpoConfig.read({**base, **settings}, where="grpo")
    pool = [Conversation(str(n), "x", [{"role": "user", "content": "?"}]) for n in range(7)]
    return Grpo(load_model(shape, seed=3), Players(), pool, config, seed=1)  # type: ignore[arg-type]


class Watch:
    """The hooks; stops after `stop_at` steps."""

    def __init__(self, trainer: Grpo, stop_at: int = 0) -> None:
        self.trainer, self.stop_at = trainer, stop_at
        self.trained: list[list[int]] = []
        self.lines: list[dict[str, float]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def hooks(self) -> GrpoHooks:
        def log(step: int, metrics: dict[str, float], tokens: int) -> None:
            self.lines.append(metrics)
            state = self.trainer.model.state_dict()
            self.weights.append({name: tensor.clone() for name, tensor in state.items()})

        def record(step: int, groups: Sequence[Sequence[Rollout]]) -> None:
            self.trained.append([group[0].prompt[1] - 5 for group in groups])

        stop = lambda: bool(self.stop_at) and len(self.lines) >= self.stop_at  # noqa: E731
        return GrpoHooks(log, lambda step: None, stop, record)


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_engine_gets_the_weights_after_every_step(staleness: int, tmp_path: Path) -> None:
    trainer = grpo(max_staleness=staleness)
    watch = Watch(trainer)
    assert trainer.fit(watch.hooks(), Checkpoints(tmp_path))
    given = trainer.sampler.engine.given  # type: ignore[attr-defined]
    assert [version for version, _ in given] == [0, 1, 2, 3, 4]
    for (_, held), own in zip(given[1:], watch.weights, strict=True):
        assert all(torch.equal(tensor, own[name]) for name, tensor in held.items())
    firsts = [next(iter(held.values())) for _, held in given]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(firsts))


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_resumed_run_asks_what_the_whole_one_asks(staleness: int, tmp_path: Path) -> None:
    """Stopped after each of its steps: the same prompts in the same order, and the same weights."""
    settings = {"max_staleness": staleness}
    whole = grpo(**settings)
    watch = Watch(whole)
    assert whole.fit(watch.hooks(), Checkpoints(tmp_path / "whole"))
    assert len({n for groups in watch.trained for n in groups}) > 2
    trained, asked = [], []
    folder = Checkpoints(tmp_path / "parts")
    for step in range(1, 5):
        part = grpo(**settings)
        state = folder.load_latest()
        if state is not None:
            part.load_state_dict(state)
        own = Watch(part, stop_at=1)
        assert part.fit(own.hooks(), folder) is False
        assert part.step == step
        trained += own.trained
        asked += part.sampler.asked  # type: ignore[attr-defined]
    assert trained == watch.trained
    if not staleness:  # nothing is sampled ahead, so nothing twice
        assert asked == whole.sampler.asked  # type: ignore[attr-defined]
        final = part.model.state_dict()
        assert all(torch.equal(v, final[k]) for k, v in whole.model.state_dict().items())


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_policy_that_sampled_stays_the_old_one_through_a_step(
    kl: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates of a step: the second one's ratios are against the weights before the first."""
    trainer = grpo(
        updates_per_step=2, loss={"kl_coefficient": kl, "clip_low": 1e-4, "clip_high": 1e-4}
    )
    batch = trainer.collect(0)
    parts = [pack(group, 8192) for group in batch.groups]
    wanted = [frozen_logprobs(trainer.model, rows, Truncation()) for rows in parts]
    seen: list[list[torch.Tensor | None]] = []
    real = rl.update.accumulate

    def watched(model: Any, batches: Sequence[PolicyBatch], *args: Any, **options: Any) -> Any:
        seen.append([batch.old for batch in batches])
        return real(model, batches, *args, **options)

    monkeypatch.setattr(rl.update, "accumulate", watched)
    metrics = trainer.update(batch)
    assert len(seen) == 2
    for olds, own in zip(seen, wanted, strict=True):
        for old, value in zip(olds, own, strict=True):
            assert old is not None and torch.allclose(old, value, atol=1e-5)
    # The first update moved the weights, so every ratio of the second leaves such narrow bounds.
    assert metrics["clip_fraction"] == pytest.approx(0.5, abs=0.1)


def test_the_gate_stops_the_run_before_the_weights_move(tmp_path: Path) -> None:
    """The engine says -5.77 of every token and the model something else: a KL of about 0.01."""
    trainer = grpo(mismatch_kl_limit=1e-5)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    watch = Watch(trainer)
    with pytest.raises(MismatchError, match=r"at step 1: mean KL .*, limit 1e-05"):
        trainer.fit(watch.hooks(), Checkpoints(tmp_path))
    assert not watch.lines
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    other = grpo(mismatch_kl_limit=100.0, num_steps=1)
    watch = Watch(other)
    assert other.fit(watch.hooks(), Checkpoints(tmp_path))
    assert 1e-5 < watch.lines[0]["mismatch_kl"] < 100.0


def test_a_mismatch_that_is_no_number_stops_the_run_too() -> None:
    trainer = grpo()
    sums = {"mismatch_kl_sum": float("nan"), "fresh_tokens": 4.0}
    with pytest.raises(MismatchError, match="mean KL nan"):
        trainer.check_mismatch(sums, trainer.collect(0))
