"""Preference pairs from checked replies: what a checker scored higher against what it scored lower."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.protocol import Engine, Sampling
from environments.question import question_task
from environments.rollout import Player, Trajectory
from reward.score_model import score_ids
from workbench.chat import opens_trace
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class ScoredReply:
    """A sampled reply: what the reward model will see of it, and the checker's value (None: undecided)."""

    prompt: str
    ids: list[int]
    value: float | None
    status: str


def sample(
    engine: Engine,
    tokenizer: Any,
    questions: Sequence[Conversation],
    modes: Sequence[bool],
    sampling: Sampling,
    *,
    seed: int,
) -> list[ScoredReply]:
    """`sampling.n` replies to each question in each reasoning mode, checked."""
    for question in questions:
        if question.check is None:
            raise UserError(f"prompt {question.id!r} has no check; pairs need verifiable prompts")
    jobs = [(question, thinking) for thinking in modes for question in questions]
    player = Player(engine, tokenizer, replace(sampling, logprobs=False), True, by_place=True)
    groups = player.play(
        [question_task(question) for question, _ in jobs],
        samples=sampling.n,
        seed=seed,
        modes=[thinking for _, thinking in jobs],
    )
    return [
        _scored(question, played, tokenizer)
        for (question, _), group in zip(jobs, groups, strict=True)
        for played in group
    ]


def _scored(question: Conversation, played: Trajectory, tokenizer: Any) -> ScoredReply:
    assert played.verdict is not None
    if played.lost is not None:
        return ScoredReply(question.id, [], None, played.lost.completion.error or "error")
    (turn,) = played.turns
    ids = score_ids(
        question.prompt,
        turn.completion.text,
        thinking=opens_trace(turn.prompt, tokenizer),
        tools=question.tools,
        tokenizer=tokenizer,
    )
    return ScoredReply(question.id, ids, played.verdict.value, played.verdict.status)


def make_pairs(
    replies: Sequence[ScoredReply], *, per_prompt: int, row_tokens: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows {prompt, chosen_ids, rejected_ids}, and what the sampling came to.

    Equal conversations are one; a pair is of one prompt and of different values. Undecided replies are
    in no pair.
    """
    by_prompt: dict[str, dict[tuple[int, ...], float]] = {}
    for reply in replies:
        if reply.value is not None and len(reply.ids) <= row_tokens:
            by_prompt.setdefault(reply.prompt, {})[tuple(reply.ids)] = reply.value
    rows = []
    for prompt, found in by_prompt.items():
        couples = [(a, b) for a, va in found.items() for b, vb in found.items() if va > vb]
        rng = random.Random(f"{seed}/{prompt}")
        for better, worse in rng.sample(couples, min(per_prompt, len(couples))):
            rows.append({"prompt": prompt, "chosen_ids": list(better), "rejected_ids": list(worse)})
    known = [r.value for r in replies if r.value is not None]
    account = {
        "replies": len(replies),
        "undecided": len(replies) - len(known),
        "mean_value": sum(known) / max(len(known), 1),
        "longer": sum(len(r.ids) > row_tokens for r in replies),
        "prompts_with_pairs": len({row["prompt"] for row in rows}),
        "pairs": len(rows),
    }
    return rows, account
