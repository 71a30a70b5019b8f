"""The loop around dynamic sampling and masked replies: what is dropped distorts nothing that is left."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.protocol import Completion
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model
from rl.advantage import advantages
from rl.config import GrpoConfig
from rl.loop import Grpo, GrpoHooks, MismatchError
from rl.plan import plan_grpo
from rl.sample import Rollout, Sampled
from workbench.checkpoint import Checkpoints
from workbench.conversation import Conversation
from workbench.errors import UserError

PROMPTS, GROUP = 4, 2
# question number -> the rewards of its group
Rewards = Callable[[int], list[float | None]]


def group_of(number: int, rewards: Sequence[float | None]) -> list[Rollout]:
    made = random.Random(number)
    out = []
    for reward, gain in zip(rewards, advantages(rewards, "mean"), strict=True):
        ids = [made.randrange(5, 300) for _ in range(3 + number % 3)]
        done = Completion(ids, [-5.7] * len(ids), "", "stop", [False] * len(ids), [0] * len(ids))
        out.append(Rollout([4, 9], done, reward, gain, "ok" if reward is not None else "gone"))
    return out


class Players:
    """In place of a Sampler: question n gets the rewards that the test says."""

    def __init__(self, rewards: Rewards) -> None:
        self.engine = ScriptedEngine(lambda prompt, sample: [5], lambda ids: "")
        self.rewards = rewards

    def roll_out(self, questions: Sequence[Conversation], *, seed: int) -> list[list[Rollout]]:
        return [group_of(int(q.id), self.rewards(int(q.id))) for q in questions]


def grpo(rewards: Rewards, **settings: Any) -> Grpo:
    shape = build_config(
        pattern="M-*-", hidden_size=32, intermediate_size=64, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=320,
    )  # fmt: skip
    world = {"type": "world", "domain": "math"}
    config = GrpoConfig.read(
        {
            "kind": "grpo", "prompts": world, "held_out": world, "num_steps": 1,
            "prompts_per_step": PROMPTS, "group_size": GROUP, "mismatch_kl_limit": 100.0,
            "loss": {"correction": "none"}, **settings,
        },
        where="grpo",
    )  # fmt: skip
    pool = [Conversation(str(n), "x", [{"role": "user", "content": "?"}]) for n in range(40)]
    return Grpo(load_model(shape, seed=3), Players(rewards), pool, config, seed=1)  # type: ignore[arg-type]


def fit(trainer: Grpo, folder: Path) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    hooks = GrpoHooks(lambda step, metrics, tokens: lines.append(metrics), lambda step: None, bool)
    assert trainer.fit(hooks, Checkpoints(folder))
    return lines


def test_a_step_in_which_no_group_teaches_is_no_failure(tmp_path: Path) -> None:
    """Every reply is right: two rounds of sampling find nothing, and the weights stay."""
    trainer = grpo(lambda n: [1.0, 1.0], dynamic_sampling=True, dynamic_rounds=2)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    (line,) = fit(trainer, tmp_path)
    assert (line["failed_share"], line["reward"], line["mixed_groups"]) == (0.0, 1.0, 0.0)
    assert line["sampled_groups"] == 2 * PROMPTS and line["grad_norm"] == 0.0
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_the_metrics_are_of_all_that_was_sampled(tmp_path: Path) -> None:
    """One prompt in four is mixed: sampling it alone would show a reward of one half."""
    trainer = grpo(
        lambda n: [1.0, 0.0] if n % 4 == 0 else [1.0, 1.0], dynamic_sampling=True, dynamic_rounds=10
    )
    batch = trainer.collect(0)
    assert len(batch.groups) == PROMPTS
    count = len(batch.groups) + len(batch.dropped)
    line = trainer.measure(batch)
    assert line["sampled_groups"] == count == batch.position > PROMPTS
    assert line["mixed_groups"] == pytest.approx(PROMPTS / count)
    assert line["reward"] == pytest.approx(1 - PROMPTS / count / 2)


def test_the_plan_bounds_what_dynamic_sampling_may_take() -> None:
    recipe: Any = None
    plain = plan_grpo(grpo(lambda n: [], num_held_out=2).config, recipe)
    assert plain.tokens == (PROMPTS * GROUP + 2 * 2) * 128
    settings: dict[str, Any] = {"dynamic_sampling": True, "dynamic_rounds": 3, "num_held_out": 2}
    trainer = grpo(lambda n: [1.0, 1.0], **settings)
    plan = plan_grpo(trainer.config, recipe)
    sampled = len(trainer.collect(0).dropped)
    assert plan.tokens == (sampled * GROUP + 2 * 2) * 128 and "up to 3 times" in plan.lines[0]


def test_an_engine_in_the_trainers_process_does_not_sample_ahead() -> None:
    recipe: Any = SimpleNamespace(cluster=SimpleNamespace(backend="local"))
    assert plan_grpo(grpo(lambda n: [], num_held_out=2).config, recipe).steps
    ahead = grpo(lambda n: [], num_held_out=2, max_staleness=1).config
    with pytest.raises(UserError, match="max_staleness 1 with cluster.backend 'local'"):
        plan_grpo(ahead, recipe)


def test_failures_do_not_hide_in_groups_that_are_dropped(tmp_path: Path) -> None:
    trainer = grpo(lambda n: [1.0, 0.0] if n % 2 else [None, None], dynamic_sampling=True)
    with pytest.raises(RuntimeError, match=r"of the step's samples failed \(gone\); .* 20%"):
        fit(trainer, tmp_path)


def test_nobody_weighs_more_for_a_reply_that_is_masked() -> None:
    """Where replies are averaged a masked one counts as one of them, without loss, as in TRL."""
    norms = {}
    for masked in (False, True):
        trainer = grpo(
            lambda n: [], grad_clip=1e9, loss={"variant": "dr_grpo", "correction": "none"}
        )
        taught, other = group_of(1, [1.0, 0.0])
        # Of no loss by its advantage, or by its mask: the other's gradient is the same.
        plain = Rollout(other.prompt, other.completion, 0.0, 0.0, "ok")
        cut = Rollout(other.prompt, other.completion, 0.0, None, "ok", masked=True)
        batch = Sampled([[taught, cut if masked else plain]], [], 1, 0.0, 1.0)
        norms[masked] = trainer.update(batch)["grad_norm"]
    assert norms[True] == pytest.approx(norms[False], rel=1e-5) and norms[True] > 1e-6


def test_an_explanation_that_fails_does_not_hide_the_mismatch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: object) -> None:
        raise RuntimeError("torch.cat():\nexpected a non-empty list of Tensors")

    trainer = grpo(lambda n: [1.0, 0.0], mismatch_kl_limit=1e-9)
    monkeypatch.setattr(trainer.sampler.engine, "trace", broken)  # type: ignore[union-attr]
    with pytest.raises(
        MismatchError,
        match=r"at step 1: mean KL .*; which layers differ is not known: RuntimeError: torch",
    ) as found:
        trainer.update(trainer.collect(0))
    assert "\n" not in str(found.value) and "could not be compared" in caplog.text
