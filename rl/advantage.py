"""From the rewards of a group of replies to one prompt to their advantages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

_EPSILON = 1e-4  # as in TRL: groups whose rewards hardly differ get hardly any gradient

Rewards = Sequence[float | None]
Kind = Literal["group", "mean", "leave_one_out"] | Callable[[Rewards], list[float | None]]


def advantages(rewards: Rewards, kind: Kind) -> list[float | None]:
    """Advantage of each reply; None for failed samples, which count nowhere.

    group: (r - mean) / (std + 1e-4), std with n - 1 (GRPO, arXiv 2402.03300). mean: r - mean (Dr. GRPO,
    2503.20783). leave_one_out: r minus the mean of the others (RLOO, 2402.14740). A group with fewer
    than two valid rewards is all None: it has no baseline. A function stands for one of the user's own.
    """
    if callable(kind):
        return kind(rewards)
    valid = np.array([r for r in rewards if r is not None], dtype=float)
    if len(valid) < 2:
        return [None] * len(rewards)
    centred = valid - valid.mean()
    if kind == "group":
        centred = centred / (valid.std(ddof=1) + _EPSILON)
    elif kind == "leave_one_out":
        centred = centred * len(valid) / (len(valid) - 1)
    values = iter(centred.tolist())
    return [None if r is None else next(values) for r in rewards]


def advantages_of_parts(
    groups: Sequence[Sequence[Mapping[str, float] | None]], weights: Mapping[str, float], kind: Kind
) -> list[list[float | None]]:
    """GDPO (arXiv 2601.05242): advantages of each part of the reward in its own group, weighted and added
    up, then shifted and scaled to mean 0 and spread 1 over all replies of the step.

    groups: of each reply the value of each part; None for failed samples.
    """
    summed: list[list[float | None]] = []
    for group in groups:
        parts = {
            name: advantages([None if one is None else one[name] for one in group], kind)
            for name in weights
        }
        rows = zip(*parts.values(), strict=True)
        summed.append([_weighted(row, list(weights.values())) for row in rows])
    known = np.array([a for group in summed for a in group if a is not None], dtype=float)
    if len(known) < 2:
        return summed
    mean, spread = known.mean(), known.std(ddof=1) + _EPSILON
    return [[None if a is None else float((a - mean) / spread) for a in group] for group in summed]


def _weighted(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [weight * a for weight, a in zip(weights, row, strict=True) if a is not None]
    return sum(known) if len(known) == len(weights) else None


def overlong_penalty(
    num_tokens: int, *, max_tokens: int, buffer_tokens: int, penalty: float
) -> float:
    """DAPO's soft penalty for long replies (arXiv 2503.14476, eq. 13): 0 up to max_tokens -
    buffer_tokens, then falling linearly to -penalty at max_tokens.

    >>> overlong_penalty(90, max_tokens=100, buffer_tokens=20, penalty=1.0)
    -0.5
    """
    over = num_tokens - (max_tokens - buffer_tokens)
    return -penalty * min(max(over, 0) / buffer_tokens, 1.0) + 0.0
