"""What a step's rollouts say in numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rl.sample import Rollout, Sampled, is_mixed

_PREFIX = "reward_of/"


def rollout_metrics(sampled: Sampled, *, step: int, max_failed_share: float) -> dict[str, float]:
    """Of all that was sampled: the groups that are kept say neither how good the policy is nor what
    broke. Raises: RuntimeError where too many samples failed."""
    groups = [*sampled.groups, *sampled.dropped]
    rollouts = [r for group in groups for r in group]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    failed = 1 - len(rewards) / max(len(rollouts), 1)
    if failed > max_failed_share:
        statuses = sorted({r.status for r in rollouts if r.reward is None})
        raise RuntimeError(
            f"{failed:.0%} of the step's samples failed ({', '.join(statuses)[:200]}); the limit "
            f"max_failed_share is {max_failed_share:.0%}"
        )
    tokens, size = sum(r.num_tokens for r in rollouts), max(len(rollouts), 1)
    forced = sum(sum(t.completion.forced) for r in rollouts for t in r.turns)
    checked = [r.checked for r in rollouts if r.checked is not None]
    watch = {"checker_reward": sum(checked) / len(checked)} if checked else {}
    return (
        watch
        | part_metrics(rollouts)
        | {
            "reward": sum(rewards) / max(len(rewards), 1),
            "failed_share": failed,
            "mixed_groups": sum(map(is_mixed, groups)) / max(len(groups), 1),
            "reply_tokens": tokens / size,
            "truncated": sum(r.truncated for r in rollouts) / size,
            "forced_share": forced / max(tokens, 1),
            "sampled_groups": float(len(groups)),
            "staleness": staleness(sampled.groups, step),
            "rollout_s": sampled.ended - sampled.began,
        }
    )


def staleness(groups: Sequence[Sequence[Rollout]], step: int) -> float:
    """Mean age of the tokens, in updates."""
    ages = [step - v for group in groups for r in group for t in r.turns
            for v in t.completion.versions]  # fmt: skip
    return sum(ages) / max(len(ages), 1)


def overlap_s(sampled: Sampled, others: Sequence[tuple[float, float]]) -> float:
    """Seconds of this step's sampling during which the trainer was at its updates."""
    return sum(max(0.0, min(sampled.ended, end) - max(sampled.began, start))
               for start, end in others)  # fmt: skip


def part_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean of every part over the replies in which it has a value: `reward_of/NAME`, and of a judge
    `judge_undecided` and `judge_flips`, shares of its comparisons; with `condition` what was paid."""
    sums: dict[str, list[float]] = {}
    for rollout in rollouts:
        for name, value in _numbers(rollout.parts):
            sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _numbers(parts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if parts.get("comparisons"):
        yield "judge_undecided", parts["undecided"] / parts["comparisons"]
        yield "judge_flips", parts["position_flips"] / parts["comparisons"]
    if "paid" in parts:
        yield "paid_share", float(parts["paid"])
        yield "thinking_tokens", float(parts["thinking_tokens"])
    for name, part in (parts.get("components") or {}).items():
        if part["value"] is not None:
            yield f"{_PREFIX}{name}", float(part["value"])
        yield from _numbers(part["parts"])
