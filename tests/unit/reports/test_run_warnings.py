"""Warnings of a run, by series made by hand: each fires at its own fault and at no other."""

from typing import Any

import pytest

from reports.run_warnings import run_warnings

_STEPS = 20


def _healthy(step: int) -> dict[str, Any]:
    """A run as it should be. Its reward rises while its length moves up and down."""
    return {
        "step": step, "mixed_groups": 0.6, "truncated": 0.1, "entropy": 1.0, "mismatch_kl": 4e-4,
        "reward": 0.2 + 0.02 * step, "reply_tokens": 100 + 10 * (step % 3),
    }  # fmt: skip


def _rows(**changed: Any) -> list[dict[str, Any]]:
    return [{**_healthy(n), **{k: f(n) for k, f in changed.items()}} for n in range(_STEPS)]


def test_a_healthy_run_has_none() -> None:
    assert run_warnings(_rows()) == []
    assert run_warnings([]) == []
    assert run_warnings([{"step": 1, "loss": 2.0}]) == []


@pytest.mark.parametrize(
    ("rows", "begins"),
    [
        (
            _rows(mixed_groups=lambda n: 0.6 if n < 15 else 0.05),
            "all groups are alike: 5% of the last 5",
        ),
        (_rows(truncated=lambda n: 0.1 if n < 15 else 0.8), "replies are cut: 80% of the last 5"),
        (_rows(entropy=lambda n: 1.0 if n < 10 else 0.1), "entropy dies: 1 to 0.1 nats/token"),
        (
            _rows(mismatch_kl=lambda n: 4e-4 if n < 10 else 2e-3),
            "the mismatch grows: 0.0004 to 0.002",
        ),
        # 100 to 195 tokens in a line, as the reward: medians of the first and last five are 110 and 185.
        (
            _rows(reply_tokens=lambda n: 100 + 5 * n),
            "one length is gamed: replies went from 110 to 185",
        ),
    ],
)
def test_each_fault_has_its_line(rows: list[dict[str, Any]], begins: str) -> None:
    (line,) = run_warnings(rows)
    assert line.startswith(begins)


@pytest.mark.parametrize(
    "rows",
    [
        _rows(mixed_groups=lambda n: 0.0 if n == 19 else 0.6),  # one bad step is none
        _rows(truncated=lambda n: 1.0 if n == 19 else 0.1),
        _rows(entropy=lambda n: 1.0 - 0.03 * n),
        _rows(mismatch_kl=lambda n: 1e-5 if n < 10 else 5e-4),  # fifty times as much of nothing
        _rows(reply_tokens=lambda n: 100 + 5 * n, reward=lambda n: 0.5 + 0.1 * (n % 2)),
        _rows(reply_tokens=lambda n: 100 + n),  # follows, and hardly grows
        _rows(entropy=lambda n: None),
        _rows(mixed_groups=lambda n: 0.0)[:4],
    ],
)
def test_what_is_no_fault_has_none(rows: list[dict[str, Any]]) -> None:
    assert run_warnings(rows) == []


def test_whether_prompts_are_too_easy_or_too_hard_is_said() -> None:
    alike = {"mixed_groups": lambda n: 0.0}
    assert "too easy" in run_warnings(_rows(**alike, reward=lambda n: 0.99))[0]
    assert "too hard" in run_warnings(_rows(**alike, reward=lambda n: 0.0))[0]
