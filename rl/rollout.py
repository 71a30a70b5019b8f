"""Rollouts: prompts in, replies with rewards and advantages out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reward import CheckItem, check_all
from rl.advantage import Kind, advantages
from rl.config import OverlongConfig
from rl.overlong import overlong_penalty
from workbench.chat import prompt_ids, stop_ids
from workbench.conversation import Conversation
from workbench.engine.protocol import Completion, Engine, Sampling
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


# (questions, their replies, with a trace or not) -> a score of each reply, None for failed ones
Score = Callable[
    [Sequence[Conversation], Sequence[Sequence[Completion]], Sequence[bool]], list[float | None]
]


@dataclass
class Sampler:
    """Prompts -> engine -> checks -> advantages."""

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

    def roll_out(self, questions: Sequence[Conversation], *, seed: int) -> list[list[Rollout]]:
        """A group of rollouts for each question, in order."""
        modes = [self._thinks(q) for q in questions]
        prompts = [
            prompt_ids(q.prompt, tools=q.tools, thinking=on, tokenizer=self.tokenizer)
            for q, on in zip(questions, modes, strict=True)
        ]
        sampling = replace(self.sampling, seed=seed, stop_token_ids=stop_ids(self.tokenizer))
        groups = self.engine.generate(prompts, sampling)
        verdicts = iter(self._check(questions, groups, modes))
        scores = None if self.score is None else iter(self.score(questions, groups, modes))
        out = []
        for prompt, group in zip(prompts, groups, strict=True):
            checks = [next(verdicts) for _ in group]
            marks = checks if scores is None else [_scored(next(scores), c) for c in group]
            seen = [None if scores is None else value for value, _ in checks]
            shaped = [self._shape(c, mark[0]) for c, mark in zip(group, marks, strict=True)]
            values = advantages(shaped, self.kind)
            out.append(
                [
                    Rollout(prompt, c, r, None if self._is_masked(c) else advantage, status, own)
                    for c, (r, status), advantage, own in zip(
                        group, marks, values, seen, strict=True
                    )
                ]
            )
        return out

    def _thinks(self, question: Conversation) -> bool:
        """Half of the prompts each way with `both`, and a prompt always the same way."""
        if self.thinking == "both":
            return hashlib.blake2b(question.id.encode(), digest_size=1).digest()[0] % 2 == 0
        return bool(self.thinking)

    def _shape(self, completion: Completion, reward: float | None) -> float | None:
        """The reward that advantages are taken from."""
        if reward is None or self.overlong is None:
            return reward
        return reward + overlong_penalty(
            len(completion.token_ids),
            max_tokens=self.sampling.max_tokens,
            buffer_tokens=self.overlong.buffer_tokens,
            penalty=self.overlong.penalty,
        )

    def _is_masked(self, completion: Completion) -> bool:
        return self.mask_truncated and completion.finish_reason == "length"

    def _check(
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
    ) -> list[tuple[float | None, str]]:
        items, places = [], []
        marks: list[tuple[float | None, str]] = []
        for question, group, thinking in zip(questions, groups, modes, strict=True):
            if question.check is None and self.score is not None:
                marks += [(None, "no check")] * len(group)
                continue
            if question.check is None:
                raise UserError(f"prompt {question.id!r} has no check; RL needs verifiable prompts")
            for completion in group:
                marks.append((None, completion.error or "error"))
                if completion.finish_reason != "error":
                    places.append(len(marks) - 1)
                    opened = {"thinking_opened": True} if thinking else {}
                    check = question.check
                    items.append(
                        CheckItem(
                            check.kind,
                            completion.text,
                            check.reference,
                            {**check.options, **self.reward_options, **opened},
                        )
                    )
        for place, verdict in zip(places, check_all(items), strict=True):
            marks[place] = (verdict.value, verdict.status)
        return marks


def _scored(score: float | None, completion: Completion) -> tuple[float | None, str]:
    return (score, "ok") if score is not None else (None, completion.error or "error")
