"""What training bought: the same held-out questions before and after, paired."""

from collections.abc import Sequence
from typing import Any

from workbench.statistics import mean_interval, paired_interval


def lift(
    before: Sequence[float | None],
    after: Sequence[float | None],
    problems: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Means and the paired difference with 95% intervals, over the questions that both answered.

    None marks a failed sample: its question is left out on both sides and counted in `failed`.
    problems: what each question asks. Where several ask the same, intervals are clustered by it.
    """
    named = problems if problems is not None else [str(number) for number in range(len(before))]
    both = [
        (b, a, problem)
        for b, a, problem in zip(before, after, named, strict=True)
        if b is not None and a is not None
    ]
    firsts, lasts, names = [b for b, _, _ in both], [a for _, a, _ in both], [p for _, _, p in both]
    return {
        "before": mean_interval(firsts, names).as_dict(),
        "after": mean_interval(lasts, names).as_dict(),
        "lift": paired_interval(firsts, lasts, names).as_dict(),
        "n": len(both),
        "problems": len(set(names)),
        "failed": len(before) - len(both),
    }
