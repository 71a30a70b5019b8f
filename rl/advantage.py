"""From the rewards of a group of replies to one prompt to their advantages."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

_EPSILON = 1e-4  # as in TRL: groups whose rewards hardly differ get hardly any gradient

Kind = Literal["group", "mean", "leave_one_out"]


def advantages(rewards: Sequence[float | None], kind: Kind) -> list[float | None]:
    """Advantage of each reply; None for failed samples, which count nowhere.

    group: (r - mean) / (std + 1e-4), std with n - 1 (GRPO, arXiv 2402.03300). mean: r - mean (Dr. GRPO,
    2503.20783). leave_one_out: r minus the mean of the others (RLOO, 2402.14740). A group with fewer
    than two valid rewards is all None: it has no baseline.
    """
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
