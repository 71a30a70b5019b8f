"""The rollouts of a step: prompts from the pool in, groups of replies with rewards and advantages out.

The asking itself is environments.rollout's; here are the pool, groups, the reward of each reply and its
advantage.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.protocol import Completion, Engine, Sampling, sample_seed
from environments.protocol import Task
from environments.question import question_task
from environments.rollout import Player, Trajectory, Turn
from reward import Verdict
from rl.advantage import Kind, advantages, advantages_of_parts, overlong_penalty
from rl.config import GrpoConfig, OverlongConfig
from workbench.chat import opens_trace
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Rollout:
    """One sampled reply. reward None: its generation or check failed; it is never trained on.
    advantage None: it carries no loss.

    Example: Rollout(prompt=[4, 9], completion=Completion([7, 12], ...), reward=1.0, advantage=0.7,
    status="ok")
    """

    prompt: list[int]
    completion: Completion
    reward: float | None
    advantage: float | None
    status: str
    checked: float | None = None
    """What the checker says where it is not the reward: to see a policy that games its reward."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """The parts of the reward's verdict."""
    masked: bool = False
    """Cut at max_tokens, so without loss (`mask_truncated`); it still counts as one of the replies."""
    later: tuple[Turn, ...] = ()
    """The further turns of an episode; reward and advantage are the whole episode's."""
    by_turn: tuple[float | None, ...] = ()
    """The advantage of each turn, where turns are credited apart; None carries no loss. (): all the
    episode's."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every reply behind the ids that it was sampled from."""
        return (Turn(self.prompt, self.completion), *self.later)

    @property
    def turn_advantages(self) -> tuple[float | None, ...]:
        """Of each turn what it is trained on."""
        whole = (self.advantage,) * len(self.turns)
        return self.by_turn if self.by_turn and self.advantage is not None else whole

    @property
    def num_tokens(self) -> int:
        """Sampled tokens, of all turns."""
        return sum(len(turn.completion.token_ids) for turn in self.turns)

    @property
    def truncated(self) -> bool:
        """Whether one of its replies was cut at max_tokens."""
        return _is_cut(self.turns)


@dataclass(frozen=True)
class Sampled:
    """The groups of one step. position: of the next prompt in the endless pool. dropped: groups that
    were sampled too, and taught nothing. began, ended: time.perf_counter() of the sampling.

    Example: Sampled([[rollout, rollout]], [], position=1, began=3.0, ended=4.5)
    """

    groups: list[list[Rollout]]
    dropped: list[list[Rollout]]
    position: int
    began: float
    ended: float


class Pool:
    """Prompt number i of an endless sequence over the given ones: every pass in a new order, every place
    decided by seed and number, so that a resume needs only the number."""

    def __init__(self, conversations: Sequence[Conversation] | Sequence[Task], seed: int) -> None:
        self._conversations, self._seed = conversations, seed
        self._orders: dict[int, list[int]] = {}

    def take(self, position: int, count: int) -> list[Conversation | Task]:
        """Prompts number position to position + count - 1."""
        size = len(self._conversations)
        return [
            self._conversations[self._order(i // size)[i % size]]
            for i in range(position, position + count)
        ]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self._conversations)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]


# (questions, their replies, whether these begin in a trace, what the checks say) -> a verdict on each. The
# latter two are flat, group by group; a reward model's value has no scale.
Score = Callable[
    [Sequence[Conversation], Sequence[Sequence[Completion]], Sequence[bool], Sequence[Verdict]],
    list[Verdict],
]


@dataclass
class Sampler:
    """How a policy plays, and what its groups of replies earn."""

    engine: Engine
    tokenizer: Any
    sampling: Sampling
    thinking: bool | Literal["both"]
    kind: Kind
    overlong: OverlongConfig | None = None
    mask_truncated: bool = False
    reward_options: Mapping[str, Any] = field(default_factory=dict)
    score: Score | None = None
    """In place of the check; the check is then only recorded."""
    check_limit_s: float | None = None
    """For all checks of one `roll_out`; those undecided by then have status "timeout"."""
    max_turns: int | None = None
    """Most replies of an episode, where tasks are played."""
    max_context: int | None = None
    """Longest prompt with its reply; an episode that outgrows it has failed."""
    of_parts: Mapping[str, float] = field(default_factory=dict)
    """Weights of the reward's parts, where advantages are taken of each (GDPO)."""
    keep_prefix: bool = False
    """See environments.rollout.Player."""
    episode_tokens: int | None = None
    """Most sampled tokens of an episode."""
    credit: Literal["episode", "to_go"] = "episode"
    """See rl.config."""

    def roll_out(
        self, questions: Sequence[Conversation | Task], *, seed: int
    ) -> list[list[Rollout]]:
        """A group of rollouts for each question, or task of an environment, in order."""
        played = self._play(questions, seed)
        checks = [_verdict(t) for group in played for t in group]
        verdicts = checks if self.score is None else self._scored(questions, played, checks)
        marks, seen = iter(verdicts), iter(checks)
        decided = [[next(marks) for _ in group] for group in played]
        watched = [
            [next(seen).value if self.score is not None else None for _ in group]
            for group in played
        ]
        values = self._advantages(played, decided)
        turns = [self._to_go(*parts) for parts in zip(played, decided, strict=True)]
        return [
            [self._rollout(*parts) for parts in zip(*group, strict=True)]
            for group in zip(played, decided, values, watched, turns, strict=True)
        ]

    def _advantages(
        self, played: Sequence[Sequence[Trajectory]], decided: Sequence[Sequence[Verdict]]
    ) -> list[list[float | None]]:
        if self.of_parts:
            parts = [[values_of_parts(mark) for mark in group] for group in decided]
            return advantages_of_parts(parts, self.of_parts, self.kind)
        return [
            advantages(
                [self._shape(t, mark.value) for t, mark in zip(group, own, strict=True)], self.kind
            )
            for group, own in zip(played, decided, strict=True)
        ]

    def _to_go(
        self, group: Sequence[Trajectory], decided: Sequence[Verdict]
    ) -> list[tuple[float | None, ...]]:
        """Of each episode the advantage of each turn, from what was still to be earned there; () where
        turns are not credited apart."""
        if self.credit == "episode":
            return [()] * len(group)
        values = [self._shape(t, mark.value) for t, mark in zip(group, decided, strict=True)]
        left = [_still_earned(t, value) for t, value in zip(group, values, strict=True)]
        out: list[list[float | None]] = [[] for _ in group]
        for turn in range(max(map(len, left))):
            there = [n for n, of_one in enumerate(left) if turn < len(of_one)]
            found = advantages([left[n][turn] for n in there], self.kind)
            for n, value in zip(there, found, strict=True):
                out[n].append(value)
        return [tuple(of_one) for of_one in out]

    def _play(self, questions: Sequence[Conversation | Task], seed: int) -> list[list[Trajectory]]:
        for question in questions:
            no_check = isinstance(question, Conversation) and question.check is None
            if no_check and self.score is None:
                raise UserError(f"prompt {question.id!r} has no check; RL needs verifiable prompts")
        player = Player(
            self.engine, self.tokenizer, self.sampling, bool(self.thinking), self.max_turns,
            self.max_context, by_place=True, check_limit_s=self.check_limit_s,
            keep_prefix=self.keep_prefix, episode_tokens=self.episode_tokens,
        )  # fmt: skip
        tasks = [
            q if isinstance(q, Task) else question_task(q, self.reward_options) for q in questions
        ]
        modes = [thinks(q.id, self.thinking) for q in questions]
        return player.play(tasks, samples=self.sampling.n, seed=seed, modes=modes)

    def _scored(
        self,
        questions: Sequence[Conversation | Task],
        played: Sequence[Sequence[Trajectory]],
        checks: Sequence[Verdict],
    ) -> list[Verdict]:
        """What takes the check's place says of single replies."""
        assert self.score is not None
        asked = [q for q in questions if isinstance(q, Conversation)]
        groups = [[_turns(t)[0].completion for t in group] for group in played]
        opened = [opens_trace(_turns(group[0])[0].prompt, self.tokenizer) for group in played]
        return self.score(asked, groups, opened, checks)

    def _rollout(
        self,
        t: Trajectory,
        mark: Verdict,
        advantage: float | None,
        checked: float | None,
        by_turn: tuple[float | None, ...],
    ) -> Rollout:
        first, *later = _turns(t)
        masked = self.mask_truncated and _is_cut((first, *later))
        return Rollout(
            prompt=first.prompt,
            completion=first.completion,
            reward=mark.value,
            advantage=None if masked else advantage,
            masked=masked and advantage is not None,
            status=_status(mark),
            checked=checked,
            parts=mark.parts,
            later=tuple(later),
            by_turn=by_turn,
        )

    def _shape(self, t: Trajectory, reward: float | None) -> float | None:
        """The reward that advantages are taken from."""
        if reward is None or self.overlong is None:
            return reward
        return reward + overlong_penalty(
            max(len(turn.completion.token_ids) for turn in _turns(t)),
            max_tokens=self.sampling.max_tokens,
            buffer_tokens=self.overlong.buffer_tokens,
            penalty=self.overlong.penalty,
        )


def collect(
    sampler: Sampler, pool: Pool, config: GrpoConfig, *, position: int, seed: int
) -> Sampled:
    """Sample a step from the pool's `position` on; with dynamic sampling until enough groups teach
    something."""
    began = time.perf_counter()
    groups, dropped = list[list[Rollout]](), list[list[Rollout]]()
    rounds = config.dynamic_rounds if config.dynamic_sampling else 1
    for _ in range(rounds):
        questions = pool.take(position, config.prompts_per_step - len(groups))
        found = sampler.roll_out(questions, seed=sample_seed(seed, "grpo", position))
        position += len(questions)
        keep_all = not config.dynamic_sampling
        for group in found:
            (groups if keep_all or is_mixed(group) else dropped).append(group)
        if len(groups) == config.prompts_per_step:
            break
    return Sampled(groups, dropped, position, began, time.perf_counter())


def is_mixed(group: Sequence[Rollout]) -> bool:
    """Whether the rewards of a group differ: only then does it teach anything."""
    return len({r.reward for r in group if r.reward is not None}) > 1


def _still_earned(t: Trajectory, value: float | None) -> list[float | None]:
    """Before each turn the part of the episode's value that is not earned yet."""
    out, gone = list[float | None](), 0.0
    for place in range(len(_turns(t))):
        out.append(None if value is None else value - gone)
        gone += (t.rewards[place] if place < len(t.rewards) else None) or 0.0
    return out


def _turns(t: Trajectory) -> list[Turn]:
    """Those that were sampled, or the one that failed where none was."""
    return t.turns or ([t.lost] if t.lost is not None else [])


def _is_cut(turns: Sequence[Turn]) -> bool:
    return any(turn.completion.finish_reason == "length" for turn in turns)


def values_of_parts(verdict: Verdict) -> dict[str, float] | None:
    """Of a composite reward that is decided; a part of wrong format is worth 0, as in `compose`. Each is paid as
    the whole is."""
    if verdict.value is None:
        return None
    parts = verdict.parts["components"].items()
    return {name: share_of(part["value"] or 0.0, verdict.parts) for name, part in parts}


def share_of(value: float, parts: Mapping[str, Any]) -> float:
    """What of a reward is paid, by the share "paid" among its verdict's parts: all where there is none, and all
    of what is below 0, which a smaller share would make better."""
    return value * parts.get("paid", 1.0) if value > 0 else value


def _verdict(t: Trajectory) -> Verdict:
    assert t.verdict is not None
    return t.verdict


def thinks(name: str, thinking: bool | Literal["both"]) -> bool:
    """Whether the prompt of this id does: half of them each way with `both`, each always the same."""
    if thinking == "both":
        return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 0
    return bool(thinking)


def _status(verdict: Verdict) -> str:
    """With the reason, where there is no reward."""
    if verdict.value is None:
        return str(verdict.parts.get("reason", verdict.status))
    return verdict.status
