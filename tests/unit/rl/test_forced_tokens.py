"""Tokens that a thinking budget forced are not the policy's: their gradient is exactly 0."""

import copy
from dataclasses import replace

import pytest
import torch

from budget.control import BudgetRule, forced_mask
from engine.protocol import Completion
from model.hybrid import build_config, load_model
from model.logprobs import Truncation
from rl import update
from rl.config import GrpoConfig, LossConfig
from rl.loss import LossSettings
from rl.sample import Rollout
from rl.update import pack
from workbench.errors import UserError

CLOSE, NEWLINE = (7, 8, 9), 5
VARIANTS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "luspo")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    config = build_config(
        pattern="M*-", hidden_size=32, intermediate_size=64, mamba_num_heads=4, mamba_head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64, n_groups=2,
        ssm_state_size=16, max_position_embeddings=128,
    )  # fmt: skip
    return load_model(config, seed=0)


def rollout(reply: list[int], budget: int, advantage: float) -> Rollout:
    """A reply that was sampled under a budget, marked as an engine marks it."""
    rule = BudgetRule(budget, 4, CLOSE, {NEWLINE})
    forced = forced_mask([], reply, rule)
    # A forced token is the only one with a finite logit: the engine reports log-probability 0.
    logprobs = [0.0 if mark else -3.5 for mark in forced]
    done = Completion(reply, logprobs, "", "stop", forced, [0] * len(reply))
    return Rollout([1, 20, 21], done, advantage, advantage, "ok")


ROLLOUTS = [
    rollout([30, 31, NEWLINE, *CLOSE, 40, 2], 2, 1.0),  # closed at a newline
    rollout([30, 31, 32, 33, 34, 35, *CLOSE, 41, 2], 2, -0.5),  # closed after the grace
    rollout([30, *CLOSE, 42, 2], 20, -0.5),  # the very same tag, of the model's own choice
]


def gradients(
    model: torch.nn.Module,
    rollouts: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
    variant: str = "grpo",
    truncation: Truncation | None = None,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Gradients of the parameters, of each reply token's log-probability, and which were forced."""
    learner = copy.deepcopy(model)
    seen: list[torch.Tensor] = []
    inner = update.reply_logprobs

    def watched(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        new, supported = inner(*args)  # type: ignore[arg-type]
        new.retain_grad()
        seen.append(new)
        return new, supported

    monkeypatch.setattr(update, "reply_logprobs", watched)
    rows = pack(rollouts, 24)
    loss = LossConfig.read({"variant": variant}, where="loss").model_dump(exclude={"variant"})
    update.accumulate(
        learner, rows, LossSettings(**loss, max_tokens=32),
        truncation or Truncation(), totals=update.totals_of(rows), version=0,
    )  # fmt: skip
    monkeypatch.setattr(update, "reply_logprobs", inner)
    tokens = torch.cat([new.grad for new in seen if new.grad is not None])
    forced = torch.tensor([mark for r in rollouts for mark in r.completion.forced])
    return [p.grad for p in learner.parameters() if p.grad is not None], tokens, forced


@pytest.mark.parametrize("variant", VARIANTS)
def test_forced_tokens_have_a_gradient_of_exactly_0(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    _, tokens, forced = gradients(model, ROLLOUTS, monkeypatch, variant)
    assert forced.sum() == 6
    assert torch.equal(tokens[forced], torch.zeros(6))
    assert bool((tokens[~forced] != 0).all())  # the model's own tag is learnt from


def test_forced_tokens_outside_the_policys_support_do_no_harm(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = Truncation(top_k=2)  # the forced ids are not among the two best
    parameters, tokens, forced = gradients(model, ROLLOUTS, monkeypatch, "grpo", cuts)
    assert torch.equal(tokens[forced], torch.zeros(6))
    assert all(bool(p.isfinite().all()) for p in parameters)


def test_what_the_engine_says_of_a_forced_token_changes_no_bit_of_the_gradient(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _, _ = gradients(model, ROLLOUTS, monkeypatch)
    other = []
    for r in ROLLOUTS:
        done = r.completion
        logprobs = [-9.0 if f else x for f, x in zip(done.forced, done.logprobs, strict=True)]
        other.append(replace(r, completion=replace(done, logprobs=logprobs)))
    after, _, _ = gradients(model, other, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_reply_of_forced_tokens_alone_teaches_nothing(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, _, forced = gradients(model, [rollout([*CLOSE], 0, 1.0)], monkeypatch)
    assert forced.all()
    assert all(not p.any() for p in parameters)


def test_a_budget_without_a_trace_is_refused() -> None:
    source = {"type": "world", "domain": "math"}
    raw = {"kind": "grpo", "prompts": source, "held_out": source, "thinking": False}
    with pytest.raises(UserError, match="thinking_budget without a trace"):
        GrpoConfig.read({**raw, "thinking_budget": 8}, where="stages.grpo")
