"""What training bought: the same held-out questions before and after, paired."""

from collections.abc import Sequence
from typing import Any

from workbench.statistics import mean_interval, paired_interval


def lift(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any]:
    """Means and the paired difference with 95% intervals, over the questions that both answered.

    None marks a failed sample: its question is left out on both sides and counted in `failed`.
    """
    both = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    firsts, lasts = [b for b, _ in both], [a for _, a in both]
    return {
        "before": mean_interval(firsts).as_dict(),
        "after": mean_interval(lasts).as_dict(),
        "lift": paired_interval(firsts, lasts).as_dict(),
        "n": len(both),
        "failed": len(before) - len(both),
    }
