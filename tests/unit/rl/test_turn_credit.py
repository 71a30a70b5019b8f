"""Rewards turn by turn: what each reply of an episode is trained on, worked out by hand."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from environments.episode import Episode
from environments.protocol import Step, Task
from environments.rollout import Player
from reward.verdict import Verdict, decided, failed
from rl.sample import Rollout, Sampler
from rl.update import pack
from workbench.chat import Reply, stop_ids

TASK = Task("t", "own", [{"role": "user", "content": "Go."}], [], {})
# Of each sample what its replies earn, and whether the world holds.
EARNED: tuple[list[float], ...] = ([1.0, 0.0, 2.0], [0.0, 1.0], [0.5, 0.0, 0.0])


class Paying:
    """Pays each reply as EARNED says for the sample that the reply names; the verdict has the sum."""

    broken = False

    def reset(self, task: Task) -> None:
        self.paid: list[float] = []

    def step(self, reply: Reply) -> Step:
        earned = EARNED[int(reply.answer.strip())]
        self.paid.append(earned[len(self.paid)])
        done = len(self.paid) == len(earned)
        said = [] if done else [{"role": "user", "content": "And?"}]
        return Step(said, done=done, reward=self.paid[-1])

    def verify(self) -> Verdict:
        return decided(sum(self.paid)) if not self.broken else failed("broken")

    def gold(self) -> list[Any]:
        return []


def _group(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> tuple[list[Rollout], Sampler]:
    def script(prompt: Sequence[int], sample: int) -> list[int]:
        # A later request names no sample of its own: the number is in what was said.
        said = tokenizer.decode(prompt).rpartition("Assistant\n")[0]
        number = next((n for n in range(3) if f"Assistant\n{n}\n" in said), sample)
        text = f"hm\n</think>\n\n{number}\n"
        return [*tokenizer.encode(text, add_special_tokens=False), *stop_ids(tokenizer)]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    monkeypatch.setattr("rl.sample.Player", partial(Player, make=lambda name: Paying()))
    sampler = Sampler(engine, tokenizer, Sampling(max_tokens=50, n=3), True, "mean", **fields)
    (group,) = sampler.roll_out([TASK], seed=1)
    return group, sampler


def test_to_go_credits_a_turn_with_what_came_after_it(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = _group(tokenizer, monkeypatch, credit="to_go")
    assert [r.reward for r in group] == [3.0, 1.0, 0.5]
    # Still to be earned: (3, 2, 2), (1, 1), (0.5, 0, 0). Means of those there: 1.5, 1, 1.
    assert [r.turn_advantages for r in group] == [
        (1.5, 1.0, 1.0), (-0.5, 0.0), (-1.0, -1.0, -1.0)
    ]  # fmt: skip
    (batch,) = pack(group, 100_000)
    by_hand = [
        value
        for r in group
        for turn, value in zip(r.turns, r.turn_advantages, strict=True)
        for _ in turn.completion.token_ids
    ]
    assert batch.advantage.tolist() == pytest.approx(by_hand)
    assert bool(batch.mask.all())


def test_by_default_each_turn_has_the_whole_episodes(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = _group(tokenizer, monkeypatch)
    assert [r.turn_advantages for r in group] == [(1.5,) * 3, (-0.5,) * 2, (-1.0,) * 3]


def test_a_turn_that_one_episode_alone_reached_carries_no_loss(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.EARNED", ([1.0, 4.0], [0.0], [2.0]))
    group, _ = _group(tokenizer, monkeypatch, credit="to_go")
    assert [r.turn_advantages for r in group] == [(5 - 7 / 3, None), (-7 / 3,), (2 - 7 / 3,)]
    (batch,) = pack(group, 100_000)
    last = len(group[0].turns[1].completion.token_ids)
    assert int((~batch.mask).sum()) == last


def test_a_broken_episode_is_in_no_baseline(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paying, "broken", True)
    group, _ = _group(tokenizer, monkeypatch, credit="to_go")
    assert all(r.reward is None and set(r.turn_advantages) == {None} for r in group)


def test_over_its_turns_an_episode_keeps_what_it_earned() -> None:
    episode = Episode(Paying(), TASK, max_turns=2)
    for _ in range(2):
        episode.answer(Reply("", "0", None, True))
    assert episode.ask() is None
    assert episode.verdict().value == 1.0 and episode.verdict().parts["reason"] == "over 2 turns"
