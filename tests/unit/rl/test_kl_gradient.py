"""The KL term's expected gradient, every outcome enumerated, against autograd of the exact KL (fp64).

Prefixes: the empty one and each first token. Policies are tables of logits, one row a prefix.
"""

import itertools
from typing import Any

import pytest
import torch

from rl.loss import LossSettings, policy_loss
from tests.unit.rl.batches import loss_batch

V = 3
REPLIES = list(itertools.product(range(V), repeat=2))
WIDE = {"correction_low": 0.0, "correction_high": 1e9}


def tables() -> dict[str, torch.Tensor]:
    """[1 + V, V] log-probabilities of each policy, all far from one another."""
    made = torch.Generator().manual_seed(11)
    names = ("new", "old", "engine", "reference")
    return {n: torch.randn(1 + V, V, generator=made, dtype=torch.float64) for n in names}


def logprobs(logits: torch.Tensor) -> torch.Tensor:
    """[replies, 2] of the first token and of the second behind it."""
    rows = logits.log_softmax(-1)
    return torch.stack([torch.stack([rows[0, a], rows[1 + a, b]]) for a, b in REPLIES])


def expected_gradient(given: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
    """Gradient [1 + V, V] of the loss, in the mean over what the engine samples; advantages are 0."""
    new = given["new"].clone().requires_grad_()
    all_of = {name: logprobs(given[name]) for name in ("old", "engine", "reference")}
    chance = all_of["engine"].sum(1).exp()
    total = torch.zeros((), dtype=torch.float64)
    how = LossSettings(kl_coefficient=1.0, aggregate="sequence_sum", **settings)
    for number, own in enumerate(logprobs(new)):
        batch = loss_batch(
            all_of["old"][number], all_of["engine"][number], torch.zeros_like(own.detach()),
            torch.tensor([True, True]), torch.tensor([0, 0]), 1, all_of["reference"][number],
        )  # fmt: skip
        loss, _ = policy_loss(own, batch, how, total_tokens=2, total_sequences=1)
        total = total + chance[number] * loss
    (gradient,) = torch.autograd.grad(total, new)
    return gradient


def exact_gradient(given: dict[str, torch.Tensor], prefixes: str, *, forward: bool = False) -> Any:
    """Of KL(new || reference) behind each prefix, weighted by how often a policy comes there."""
    new = given["new"].clone().requires_grad_()
    mine, other = new.log_softmax(-1), given["reference"].log_softmax(-1)
    one, two = (other, mine) if forward else (mine, other)
    kl = (one.exp() * (one - two)).sum(-1)
    first = given[prefixes].log_softmax(-1)[0].exp()
    (gradient,) = torch.autograd.grad(kl[0] + (first * kl[1:]).sum(), new)
    return gradient


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=1e-12))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_on_policy_it_is_the_gradient_of_the_kl(ratio: str) -> None:
    given = tables()
    given |= {"old": given["new"], "engine": given["new"]}
    found = expected_gradient(given, ratio=ratio)
    assert close(found, exact_gradient(given, "new")) and float(found.abs().max()) > 0.1


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_it_is_with_an_older_engine_and_an_older_old_policy(ratio: str) -> None:
    given = tables()
    found = expected_gradient(given, ratio=ratio, **WIDE)
    assert close(found, exact_gradient(given, "engine"))
    # A reply's weight carries the prefixes from the engine's to those of old as well.
    found = expected_gradient(given, ratio=ratio, correction="sequence", **WIDE)
    assert close(found, exact_gradient(given, "old"))


def test_without_the_correction_or_the_ratio_it_is_another() -> None:
    given = tables()
    target = exact_gradient(given, "engine")
    assert not close(expected_gradient(given, correction="none"), target)
    assert not close(expected_gradient(given, kl_weighted=False, **WIDE), target)
    # Plain k3, on-policy, has the gradient of the KL of the other direction.
    given |= {"old": given["new"], "engine": given["new"]}
    found = expected_gradient(given, kl_weighted=False)
    assert close(found, exact_gradient(given, "new", forward=True))


@pytest.mark.parametrize("outside", ["truncate", "mask"])
def test_the_bounds_of_the_weight_are_those_of_the_surrogate(outside: str) -> None:
    """The bounded sum, written out: sum of engine * bounded(old / engine) * new / old * k3."""
    given = tables()
    found = expected_gradient(
        given, correction_outside=outside, correction_low=0.7, correction_high=1.5
    )
    new = given["new"].clone().requires_grad_()
    mine = new.log_softmax(-1)
    old, engine, reference = (given[n].log_softmax(-1) for n in ("old", "engine", "reference"))
    weight = (old - engine).exp()
    inside = (weight >= 0.7) & (weight <= 1.5)
    assert bool(inside.any()) and not bool(inside.all())
    bounded = weight.clamp(0.7, 1.5) if outside == "truncate" else torch.where(inside, weight, 0.0)
    k3 = (reference - mine).exp() - 1 - (reference - mine)
    by_prefix = (engine.exp() * bounded * (mine - old).exp() * k3).sum(-1)
    total = by_prefix[0] + (engine[0].exp() * by_prefix[1:]).sum()
    (wanted,) = torch.autograd.grad(total, new)
    assert close(found, wanted)
