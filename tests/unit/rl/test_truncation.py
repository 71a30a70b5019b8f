"""Which tokens sampling keeps, and their log-probabilities, worked out by hand."""

import math

import pytest
import torch

from model.logprobs import Truncation, kept_tokens, token_logprobs
from rl.advantage import overlong_penalty
from rl.config import GrpoConfig, LossConfig
from rl.loss import LossSettings, correction_weight, policy_loss
from tests.unit.rl.batches import loss_batch
from workbench.errors import UserError

PROBABILITIES = [0.5, 0.25, 0.125, 0.0625, 0.0625]


def kept(**how: float) -> list[int]:
    logits = torch.tensor([PROBABILITIES], dtype=torch.float64).log()
    return kept_tokens(logits, Truncation(**how))[0].nonzero()[:, 0].tolist()  # type: ignore[arg-type]


def test_what_is_kept_by_hand() -> None:
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=9) == [0, 1, 2, 3, 4]
    assert kept(top_p=0.7) == [0, 1]  # 0.5 is not enough, 0.75 is
    assert kept(top_p=0.001) == [0]
    assert kept(min_p=0.2) == [0, 1, 2]  # at least 0.1
    assert kept(min_p=0.2, top_p=0.6) == [0, 1]  # of 0.875: 0.571 is not enough
    assert kept(top_k=2, top_p=0.6) == [0]  # of 0.75: 0.667 is enough


def test_logprobs_are_of_the_kept_tokens_after_temperature() -> None:
    logits = torch.tensor([PROBABILITIES] * 3, dtype=torch.float64).log() * 2
    values, supported = token_logprobs(
        logits, torch.tensor([0, 1, 2]), Truncation(temperature=2.0, top_k=2)
    )
    assert supported.tolist() == [True, True, False]
    assert values[:2].tolist() == pytest.approx([math.log(0.5 / 0.75), math.log(0.25 / 0.75)])
    assert values[2] == pytest.approx(math.log(0.125 / 0.875))  # as if it were one more kept token


def test_reweighted_samples_of_the_engine_are_samples_of_the_trainer() -> None:
    """The sum over the engine's tokens of p_engine x weight is the trainer's whole probability, for
    every truncation, as long as the engine can sample what the trainer can."""
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(40, generator=made, dtype=torch.float64) * 2
    tokens = torch.arange(40)
    for how in (
        Truncation(temperature=0.7),
        Truncation(top_p=0.8),
        Truncation(top_k=7),
        Truncation(min_p=0.1),
        Truncation(temperature=1.3, top_p=0.9, top_k=20, min_p=0.02),
    ):
        # The engine's numerics differ by far more than real ones, and it keeps a little more.
        wider = Truncation(how.temperature, min(1, how.top_p + 0.1), how.top_k + 9 * (how.top_k > 0),
                           how.min_p / 3)  # fmt: skip
        other = logits + 0.1 * torch.randn(40, generator=made, dtype=torch.float64)
        engine, sampled = token_logprobs(other.expand(40, 40), tokens, wider)
        new, supported = token_logprobs(logits.expand(40, 40), tokens, how)
        old = torch.where(supported, new, -torch.inf)
        assert bool((sampled | ~supported).all())
        batch = loss_batch(
            old, engine, torch.ones_like(new), torch.ones(40, dtype=torch.bool),
            tokens, 40,
        )  # fmt: skip
        weight = correction_weight(batch, LossSettings(correction_high=1e9))
        chance = engine.exp() * sampled
        assert float((chance * weight).sum()) == pytest.approx(1.0, abs=1e-12)
        assert (chance * weight).tolist() == pytest.approx(old.exp().tolist(), abs=1e-12)


def test_a_token_outside_the_support_carries_nothing() -> None:
    new = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    batch = loss_batch(
        torch.tensor([-1.0, -torch.inf], dtype=torch.float64), new.detach(),
        torch.ones(2, dtype=torch.float64), torch.tensor([True, True]), torch.tensor([0, 1]), 2,
    )  # fmt: skip
    settings = LossSettings(correction_low=0.5)
    loss, metrics = policy_loss(new, batch, settings, total_tokens=2, total_sequences=2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert new.grad.tolist() == [-0.5, 0.0]
    assert metrics["unsupported_sum"] == 1
    assert metrics["mismatch_kl_sum"] == 0.0


@pytest.mark.parametrize("variant", ["grpo", "gspo", "luspo", "cispo"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1])
def test_nor_does_it_reach_the_others_of_its_reply(variant: str, kl_coefficient: float) -> None:
    """Two tokens of one reply, the second outside the support: exactly no gradient, by no way."""
    new = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    batch = loss_batch(
        torch.tensor([-1.0, -torch.inf], dtype=torch.float64), new.detach(),
        torch.ones(2, dtype=torch.float64), torch.tensor([True, True]), torch.tensor([0, 0]), 1,
        new.detach() + 0.5,
    )  # fmt: skip
    config = LossConfig.read({"variant": variant, "kl_coefficient": kl_coefficient}, where="loss")
    settings = LossSettings(**config.model_dump(exclude={"variant"}))
    loss, _ = policy_loss(new, batch, settings, total_tokens=2, total_sequences=1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert new.grad[0] != 0.0 and new.grad[1] == 0.0


def test_the_overlong_penalty_by_hand() -> None:
    lengths = {79: 0.0, 80: 0.0, 85: -0.5, 90: -1.0, 95: -1.5, 100: -2.0}
    found = {n: overlong_penalty(n, max_tokens=100, buffer_tokens=20, penalty=2.0) for n in lengths}
    assert found == lengths


def test_variants_fill_what_is_not_written() -> None:
    assert LossConfig(variant="dapo").clip_high == 0.28
    assert LossConfig(variant="dapo", clip_high=0.3).clip_high == 0.3
    gspo = LossConfig(variant="gspo")
    assert (gspo.ratio, gspo.aggregate) == ("sequence", "sequence")
    assert LossConfig() == LossConfig(aggregate="token", clip_low=0.2, clip_high=0.2)


def test_settings_that_do_not_fit_are_one_line() -> None:
    source = {"type": "world", "domain": "conversation"}
    base = {"kind": "grpo", "needs": ["x"], "prompts": source, "held_out": source}
    for wrong, says in (
        ({"overlong": {"buffer_tokens": 999}}, "buffer_tokens 999 is more than max_tokens 128"),
        ({"updates_per_step": 17}, "updates_per_step 17 is more than prompts_per_step 16"),
        ({"loss": {"variant": "ppo"}}, "variant"),
        ({"max_staleness": -1}, "max_staleness"),
    ):
        with pytest.raises(UserError, match=says):
            GrpoConfig.read({**base, **wrong}, where="stages.grpo")
