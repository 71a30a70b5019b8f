"""Rollouts: prompts in, replies with rewards and advantages out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.protocol import Completion, Engine, Sampling
from reward import CheckItem, Verdict, check_all
from reward.verdict import failed
from rl.advantage import Kind, advantages
from rl.config import OverlongConfig
from rl.overlong import overlong_penalty
from workbench.chat import opens_trace, prompt_ids, stop_ids
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


# (questions, their replies, whether these begin in a trace, what the checks say) -> a verdict on each. The
# latter two are flat, group by group; a reward model's value has no scale.
Score = Callable[
    [Sequence[Conversation], Sequence[Sequence[Completion]], Sequence[bool], Sequence[Verdict]],
    list[Verdict],
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
    check_limit_s: float | None = None
    """For all checks of one `roll_out`; those undecided by then have status "timeout"."""

    def roll_out(self, questions: Sequence[Conversation], *, seed: int) -> list[list[Rollout]]:
        """A group of rollouts for each question, in order."""
        modes = [thinks(q, self.thinking) for q in questions]
        prompts = [
            prompt_ids(q.prompt, tools=q.tools, thinking=on, tokenizer=self.tokenizer)
            for q, on in zip(questions, modes, strict=True)
        ]
        sampling = replace(self.sampling, seed=seed, stop_token_ids=stop_ids(self.tokenizer))
        groups = self.engine.generate(prompts, sampling)
        opened = [opens_trace(prompt, self.tokenizer) for prompt in prompts]
        checks = self._check(questions, groups, opened)
        verdicts = checks
        if self.score is not None:
            verdicts = self.score(questions, groups, opened, checks)
        marks, seen = iter(verdicts), iter(checks)
        out = []
        for prompt, group in zip(prompts, groups, strict=True):
            own = [next(marks) for _ in group]
            watched = [next(seen).value if self.score is not None else None for _ in group]
            shaped = [self._shape(c, mark.value) for c, mark in zip(group, own, strict=True)]
            values = advantages(shaped, self.kind)
            out.append(
                [
                    Rollout(
                        prompt=prompt,
                        completion=c,
                        reward=mark.value,
                        advantage=None if self._is_masked(c) else advantage,
                        masked=self._is_masked(c) and advantage is not None,
                        status=_status(mark),
                        checked=value,
                        parts=mark.parts,
                    )
                    for c, mark, advantage, value in zip(group, own, values, watched, strict=True)
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
        self,
        questions: Sequence[Conversation],
        groups: Sequence[Sequence[Completion]],
        modes: Sequence[bool],
    ) -> list[Verdict]:
        items, places = list[CheckItem](), list[int]()
        verdicts: list[Verdict] = []
        for question, group, thinking in zip(questions, groups, modes, strict=True):
            if question.check is None and self.score is not None:
                verdicts += [failed("no check")] * len(group)
                continue
            if question.check is None:
                raise UserError(f"prompt {question.id!r} has no check; RL needs verifiable prompts")
            for completion in group:
                verdicts.append(failed(completion.error or "error"))
                if completion.finish_reason != "error":
                    places.append(len(verdicts) - 1)
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
        limited = check_all(items, timeout_s=self.check_limit_s)
        for place, verdict in zip(places, limited, strict=True):
            verdicts[place] = verdict
        return verdicts


def thinks(question: Conversation, thinking: bool | Literal["both"]) -> bool:
    """Half of the prompts each way with `both`, and a prompt always the same way."""
    if thinking == "both":
        return hashlib.blake2b(question.id.encode(), digest_size=1).digest()[0] % 2 == 0
    return bool(thinking)


def _status(verdict: Verdict) -> str:
    """With the reason, where there is no reward."""
    if verdict.value is None:
        return str(verdict.parts.get("reason", verdict.status))
    return verdict.status
