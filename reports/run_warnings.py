"""What goes wrong in reinforcement learning without an error, seen in the rows of metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

WINDOW = 5
"""Steps that are looked at together: one bad step is none."""
MIXED, CUT = 0.1, 0.5
"""Share of groups that teach, below it none do; share of cut replies, above it their rewards say little."""
ENTROPY_LEFT = 0.2
"""Of the first steps' entropy."""
MISMATCH_GROWTH, MISMATCH_FLOOR = 4.0, 1e-3
"""Times the first steps' mismatch, and nats/token below which it is noise."""
LENGTH_CHANGE, LENGTH_FOLLOWS = 1.5, 0.9
"""How much longer (or shorter) replies have become, and how closely the reward follows their length."""
_FOLLOWED_STEPS = 10


def run_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each thing that is wrong at the end of the series. rows: in the order of their steps."""
    found = [check(rows) for check in (_alike, _cut, _entropy, _mismatch, _length)]
    return [line for line in found if line]


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    values = (row.get(name) for row in rows)
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _ends(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float] | None:
    """Medians of the first and of the last steps; None where they overlap."""
    values = _series(rows, name)
    if len(values) < 2 * WINDOW:
        return None
    return median(values[:WINDOW]), median(values[-WINDOW:])


def _alike(rows: Sequence[Mapping[str, Any]]) -> str:
    last = _series(rows, "mixed_groups")[-WINDOW:]
    if len(last) < WINDOW or fmean(last) >= MIXED:
        return ""
    reward = _series(rows, "reward")[-WINDOW:]
    which = "too easy" if reward and fmean(reward) > 0.5 else "too hard, or the check refuses all"
    return (
        f"all groups are alike: {fmean(last):.0%} of the last {WINDOW} steps' groups have different rewards, "
        f"so nothing is learned; the prompts are {which} (dynamic_sampling asks for more)"
    )


def _cut(rows: Sequence[Mapping[str, Any]]) -> str:
    last = _series(rows, "truncated")[-WINDOW:]
    if len(last) < WINDOW or fmean(last) <= CUT:
        return ""
    return (
        f"replies are cut: {fmean(last):.0%} of the last {WINDOW} steps' hit max_tokens; raise it, or ask "
        "for less thinking"
    )


def _entropy(rows: Sequence[Mapping[str, Any]]) -> str:
    ends = _ends(rows, "entropy")
    if ends is None or ends[1] >= ENTROPY_LEFT * ends[0]:
        return ""
    return (
        f"entropy dies: {ends[0]:.3g} to {ends[1]:.3g} nats/token; the policy stops trying other replies "
        "(lower lr, a higher upper clip, or a KL term)"
    )


def _mismatch(rows: Sequence[Mapping[str, Any]]) -> str:
    ends = _ends(rows, "mismatch_kl")
    if ends is None or ends[1] <= max(MISMATCH_GROWTH * ends[0], MISMATCH_FLOOR):
        return ""
    return (
        f"the mismatch grows: {ends[0]:.2g} to {ends[1]:.2g} nats/token between engine and trainer "
        "(docs/weight-sync.md)"
    )


def _length(rows: Sequence[Mapping[str, Any]]) -> str:
    pairs = [
        (float(row["reply_tokens"]), float(row["reward"]))
        for row in rows
        if all(_series([row], name) for name in ("reply_tokens", "reward"))
    ]
    ends = _ends(rows, "reply_tokens")
    if ends is None or len(pairs) < _FOLLOWED_STEPS or not ends[0]:
        return ""
    change = ends[1] / ends[0]
    follows = abs(_correlation(pairs))
    if max(change, 1 / max(change, 1e-9)) < LENGTH_CHANGE or follows < LENGTH_FOLLOWS:
        return ""
    return (
        f"one length is gamed: replies went from {ends[0]:,.0f} to {ends[1]:,.0f} tokens and the reward "
        f"follows their length (r = {follows:.2f}); read some, and look at the parts of the reward"
    )


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's r; 0 where a side does not move."""
    xs, ys = zip(*pairs, strict=True)
    dx, dy = [x - fmean(xs) for x in xs], [y - fmean(ys) for y in ys]
    spread = math.sqrt(sum(x * x for x in dx) * sum(y * y for y in dy))
    return sum(x * y for x, y in zip(dx, dy, strict=True)) / spread if spread else 0.0
