"""The one result type of every check."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "wrong_format", "timeout", "error"]


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Example: Verdict(1.0, "ok", {"extracted": "42"}).

    value: in [0, 1], but of an environment that pays turn by turn any number; None exactly when status is "timeout" or "error": the check did not decide,
    and an undecided sample is dropped and counted, never scored 0.
    "wrong_format": no answer could be read from the reply; value is 0.0.
    parts: what the checker saw, JSON-able, for logs and samples.jsonl.
    """

    value: float | None
    status: Status
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        undecided = self.status in ("timeout", "error")
        if undecided != (self.value is None):
            raise ValueError(f"a verdict of status {self.status!r} cannot have value {self.value}")
        if self.status == "wrong_format" and self.value != 0.0:
            raise ValueError(f"wrong_format must have value 0.0, got {self.value}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a verdict's value must be finite, got {self.value}")

    @property
    def decided(self) -> bool:
        """True where `value` is a number."""
        return self.value is not None


def decided(value: float | bool, **parts: Any) -> Verdict:
    """A verdict of status "ok"."""
    return Verdict(float(value), "ok", parts)


def wrong_format(reason: str, **parts: Any) -> Verdict:
    """A reply from which no answer could be read: value 0.0."""
    return Verdict(0.0, "wrong_format", {"reason": reason, **parts})


def timed_out(reason: str, **parts: Any) -> Verdict:
    """A check that was stopped at its deadline: no value."""
    return Verdict(None, "timeout", {"reason": reason, **parts})


def failed(reason: str, **parts: Any) -> Verdict:
    """A check that broke (a dead worker, an unusable reference, no sandbox): no value."""
    return Verdict(None, "error", {"reason": reason, **parts})
