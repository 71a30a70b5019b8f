"""Rollouts: prompts in, replies with rewards and advantages out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass
class Sampler:
    """Prompts -> engine -> checks -> advantages."""

    engine: Engine
    tokenizer: Any
    sampling: Sampling
    thinking: bool
    kind: Kind
    overlong: OverlongConfig | None = None
    mask_truncated: bool = False
    reward_options: Mapping[str, Any] = field(default_factory=dict)

    def roll_out(self, questions: Sequence[Conversation], *, seed: int) -> list[list[Rollout]]:
        """A group of rollouts for each question, in order."""
        prompts = [
            prompt_ids(q.prompt, tools=q.tools, thinking=self.thinking, tokenizer=self.tokenizer)
            for q in questions
        ]
        sampling = replace(self.sampling, seed=seed, stop_token_ids=stop_ids(self.tokenizer))
        groups = self.engine.generate(prompts, sampling)
        verdicts = iter(self._check(questions, groups))
        out = []
        for prompt, group in zip(prompts, groups, strict=True):
            marks = [next(verdicts) for _ in group]
            shaped = [self._shape(c, mark[0]) for c, mark in zip(group, marks, strict=True)]
            values = advantages(shaped, self.kind)
            out.append(
                [
                    Rollout(prompt, c, reward, None if self._is_masked(c) else advantage, status)
                    for c, (reward, status), advantage in zip(group, marks, values, strict=True)
                ]
            )
        return out

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
        self, questions: Sequence[Conversation], groups: Sequence[Sequence[Completion]]
    ) -> list[tuple[float | None, str]]:
        items, places = [], []
        marks: list[tuple[float | None, str]] = []
        for question, group in zip(questions, groups, strict=True):
            if question.check is None:
                raise UserError(f"prompt {question.id!r} has no check; RL needs verifiable prompts")
            for completion in group:
                marks.append((None, completion.error or "error"))
                if completion.finish_reason != "error":
                    places.append(len(marks) - 1)
                    opened = {"thinking_opened": True} if self.thinking else {}
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
