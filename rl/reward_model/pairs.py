"""Preference pairs from checked replies: what a checker scored higher against what it scored lower."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.protocol import Engine, Sampling
from reward import CheckItem, check_all
from reward.score_model import score_ids
from workbench.chat import opens_trace, prompt_ids, stop_ids
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Scored:
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
) -> list[Scored]:
    """`sampling.n` replies to each question in each reasoning mode, checked."""
    jobs = [(question, thinking) for thinking in modes for question in questions]
    prompts = [
        prompt_ids(q.prompt, tools=q.tools, thinking=on, tokenizer=tokenizer) for q, on in jobs
    ]
    stops = stop_ids(tokenizer)
    groups = engine.generate(prompts, _with(sampling, seed, stops))
    out, items, places = list[Scored](), list[CheckItem](), list[int]()
    for (question, _), prompt, group in zip(jobs, prompts, groups, strict=True):
        on = opens_trace(prompt, tokenizer)
        if question.check is None:
            raise UserError(f"prompt {question.id!r} has no check; pairs need verifiable prompts")
        for done in group:
            if done.finish_reason == "error":
                out.append(Scored(question.id, [], None, done.error or "error"))
                continue
            check, opened = question.check, {"thinking_opened": True} if on else {}
            options = {**check.options, **opened}
            items.append(CheckItem(check.kind, done.text, check.reference, options))
            places.append(len(out))
            ids = score_ids(
                question.prompt, done.text, thinking=on, tools=question.tools, tokenizer=tokenizer
            )
            out.append(Scored(question.id, ids, None, "unscored"))
    for place, verdict in zip(places, check_all(items), strict=True):
        old = out[place]
        out[place] = Scored(old.prompt, old.ids, verdict.value, verdict.status)
    return out


def _with(sampling: Sampling, seed: int, stops: tuple[int, ...]) -> Sampling:
    values = {**sampling.__dict__, "seed": seed, "stop_token_ids": stops, "logprobs": False}
    return Sampling(**values)


def make_pairs(
    replies: Sequence[Scored], *, per_prompt: int, row_tokens: int, seed: int
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
