"""Losses, advantages and kinds of the user's own, and advantages of each part of a reward."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from reward import Component, compose
from reward.verdict import Verdict, decided, failed
from rl.advantage import advantages, advantages_of_parts
from rl.config import GrpoConfig, LossConfig
from rl.custom import custom_advantage, custom_loss
from rl.loss import LossSettings, policy_loss
from rl.sample import Sampler
from tests.unit.rl.batches import loss_batch
from workbench.content import places_read
from workbench.custom_code import must_name
from workbench.errors import UserError

OBJECTIVE = "docs/examples/objective.py"


def file(folder: Path, body: str) -> str:
    path = folder / f"own{len(list(folder.iterdir()))}.py"
    path.write_text(f"import torch\n\n\n{body}\n")
    return f"{path}:f"


def by_hand(groups: list[list[list[float]]], weights: list[float]) -> list[float]:
    """GDPO's equations, one reply at a time: [group][reply][part]."""
    summed = []
    for group in groups:
        for reply in group:
            total = 0.0
            for part, weight in enumerate(weights):
                column = [other[part] for other in group]
                spread = statistics.stdev(column) + 1e-4
                total += weight * (reply[part] - statistics.fmean(column)) / spread
            summed.append(total)
    spread = statistics.stdev(summed) + 1e-4
    return [(value - statistics.fmean(summed)) / spread for value in summed]


def test_gdpo_by_hand_tells_mixes_apart_that_a_sum_does_not() -> None:
    groups = [
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]],
        [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]],
    ]
    given: Any = [[{"a": x, "b": y} for x, y in group] for group in groups]
    found = advantages_of_parts(given, {"a": 1.0, "b": 0.5}, "group")
    assert [a for group in found for a in group] == pytest.approx(by_hand(groups, [1.0, 0.5]))
    # Equal sums of unlike spread: of (1, 0) among few and (0, 1) among many the rarer one gains more.
    rare = [
        [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}]
    ]
    (one,) = advantages_of_parts(rare, {"a": 1.0, "b": 1.0}, "group")
    assert one == pytest.approx([0.0] * 4, abs=1e-6)
    assert advantages([1.0, 1.0, 1.0, 1.0], "group") == [0.0] * 4


def test_failed_replies_have_no_advantage_of_parts() -> None:
    found = advantages_of_parts(
        [[{"a": 1.0, "b": 0.0}, None, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]],
        {"a": 1.0, "b": 0.5},
        "group",
    )
    assert found[0][1] is None
    known = [a for a in found[0] if a is not None]
    assert known == pytest.approx(by_hand([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], [1.0, 0.5]))


def test_the_sampler_takes_advantages_of_each_part() -> None:
    def verdict(a: float, b: float) -> Verdict:
        return compose([Component("a", 1.0, decided(a)), Component("b", 0.5, decided(b))])

    marks = [
        [verdict(1, 0), verdict(0, 1), failed("gone")],
        [verdict(1, 1), verdict(0, 0), verdict(0, 1)],
    ]
    nothing: Any = None
    plain = Sampler(nothing, nothing, nothing, True, "group", of_parts={"a": 1.0, "b": 0.5})
    found = plain._advantages(nothing, marks)
    assert found[0][2] is None
    assert [a for group in found for a in group if a is not None] == pytest.approx(
        by_hand([[[1, 0], [0, 1]], [[1, 1], [0, 0], [0, 1]]], [1.0, 0.5])
    )
    config = grpo(reward=COMPOSITE | {"normalise": "parts"})
    assert (
        config.reward.of_parts == {"a": 1.0, "b": 0.5}
        and grpo(reward=COMPOSITE).reward.of_parts == {}
    )


COMPOSITE: dict[str, Any] = {
    "kind": "composite",
    "parts": {
        "a": {"kind": "checker"},
        "b": {"kind": "function", "function": "docs/examples/brief.py:score", "weight": 0.5},
    },
}


def grpo(**fields: Any) -> GrpoConfig:
    world = {"type": "world", "domain": "math", "split": "rl"}
    held = world | {"split": "test"}
    return GrpoConfig.read({"kind": "grpo", "prompts": world, "held_out": held} | fields, where="x")


def test_an_advantage_of_ones_own(tmp_path: Path) -> None:
    own = custom_advantage(f"{OBJECTIVE}:best_of")
    # The best reply alone is reinforced, against the mean of all.
    assert own([0.0, 1.0, None, 0.5]) == [0.0, pytest.approx(0.5), None, 0.0]
    assert own([1.0, None]) == [None, None]


def test_a_loss_of_ones_own_stands_in_the_surrogates_place() -> None:
    """REINFORCE: -A log p, times the correction, over the batch's tokens; by hand, gradient too."""
    own = custom_loss(f"{OBJECTIVE}:reinforce")
    old = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    batch = loss_batch(
        old=old, engine=old - torch.tensor([0.5, 0.0, 0.0]), advantage=torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64),
        mask=torch.tensor([True, False, True]), sequence=torch.tensor([0, 0, 1]), num_sequences=2,
    )  # fmt: skip
    new = (old + 0.1).requires_grad_()
    loss, metrics = policy_loss(
        new, batch, LossSettings(function=own), total_tokens=2, total_sequences=2
    )
    weight = torch.exp(torch.tensor(0.5, dtype=torch.float64)).item()
    assert float(loss.detach()) == pytest.approx((-1.0 * -0.9 * weight + -0.4) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None and new.grad.tolist() == pytest.approx([-weight / 2, 0.0, 0.5])
    assert metrics["clipped_sum"] == 0


BAD_ADVANTAGES = {
    "a scalar": ("def f(rewards):\n    return rewards.sum()", r"shape \[\] for rewards .*it must be \[3\]"),
    "not finite": ("def f(rewards):\n    return rewards / rewards.std()**0 / (rewards.max() - rewards.min())",
                   r"not finite for rewards \[1.0, 1.0\]"),
    "no tensor": ("def f(rewards):\n    return [0.0] * len(rewards)", "gives list; it must give a tensor"),
    "an exception": ("def f(rewards):\n    return rewards.nope", "raises AttributeError"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ADVANTAGES)
def test_a_bad_advantage_is_one_line_before_anything_is_sampled(what: str, tmp_path: Path) -> None:
    body, says = BAD_ADVANTAGES[what]
    with pytest.raises(UserError, match=says) as raised:
        custom_advantage(file(tmp_path, body))
    assert "\n" not in str(raised.value)


BAD_LOSSES = {
    "a scalar": ("def f(new, batch):\n    return new.mean()", r"shape \[\] for a batch; it must be \[6\]"),
    "no gradient": ("def f(new, batch):\n    return batch.advantage * 1.0", "its loss has no gradient"),
    "an infinite gradient": ("def f(new, batch):\n    return (new - batch.old).abs().sqrt()", "gradient of its loss is"),
    "one argument": ("def f(new):\n    return new", "raises TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_LOSSES)
def test_a_bad_loss_is_one_line_before_anything_is_sampled(what: str, tmp_path: Path) -> None:
    body, says = BAD_LOSSES[what]
    with pytest.raises(UserError, match=says) as raised:
        custom_loss(file(tmp_path, body))
    assert "\n" not in str(raised.value)


def test_names_are_looked_for_without_running_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "raise RuntimeError\n\ndef f(rewards):\n    return rewards")
    must_name(path)
    with pytest.raises(UserError, match="unknown name in .*'g'; .*allowed: f"):
        must_name(path[:-1] + "g")
    with pytest.raises(UserError, match="there is no file"):
        must_name("nowhere.py:f")
    with pytest.raises(UserError, match="cannot be loaded: RuntimeError"):
        custom_advantage(path)
    with pytest.raises(UserError, match="unknown advantage 'groups'; did you mean 'group'"):
        grpo(advantage="groups")
    with pytest.raises(UserError, match="normalise: parts is for kind composite"):
        grpo(reward={"normalise": "parts"})
    with pytest.raises(UserError, match="overlong with reward.normalise: parts"):
        grpo(reward=COMPOSITE | {"normalise": "parts"}, overlong={"buffer_tokens": 8})


def test_the_files_of_functions_count_as_what_a_stage_reads(tmp_path: Path) -> None:
    config = grpo(advantage=f"{OBJECTIVE}:best_of", loss=f"{OBJECTIVE}:reinforce")
    assert config.loss == LossConfig(function=f"{OBJECTIVE}:reinforce")
    read = [value for mark, value in places_read(config) if mark.what == "function"]
    assert read == [f"{OBJECTIVE}:best_of", f"{OBJECTIVE}:reinforce"]
    assert [m for m, _ in places_read(grpo()) if m.what == "function"] == []
    assert grpo(loss="dapo").loss.clip_high == 0.28
