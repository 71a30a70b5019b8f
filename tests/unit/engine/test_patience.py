"""How long a server is waited for: with a clock of the test's own."""

from collections.abc import Callable
from email.utils import formatdate

import pytest

from engine.patience import Patience, Refused, asked_pause


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, **more: float) -> Patience:
        return Patience(clock=lambda: self.now, sleep=self.sleep, **more)


def _answers(*statuses: int | None, after: str = "7") -> Callable[[], str]:
    """Refuses with each status in turn, then says yes. 200 at once."""
    left = list(statuses)

    def request() -> str:
        status = left.pop(0) if left else 200
        if status == 200:
            return "yes"
        raise Refused(RuntimeError(f"status {status}"), status, {"retry-after": after})

    return request


def test_asked_too_often_costs_patience_and_no_retry() -> None:
    clock = Clock()
    assert clock.patience(patience_s=60).ask(_answers(429, 429, 429), retries=0) == "yes"
    assert clock.slept == [7.0, 7.0, 7.0]  # as the server says each time


def test_what_costs_patience_leaves_the_retries_to_other_faults() -> None:
    clock = Clock()
    answers = _answers(*[429] * 5, 502)
    assert clock.patience(patience_s=60).ask(answers, retries=1) == "yes"


@pytest.mark.parametrize("after", ["inf", "1e400", "nan"])
def test_a_pause_that_is_no_time_is_not_kept(after: str) -> None:
    clock = Clock()
    assert asked_pause({"retry-after": after}) is None
    assert clock.patience(patience_s=60).ask(_answers(503, after=after), retries=1) == "yes"
    assert clock.slept[0] <= 0.5


def test_a_server_that_asks_for_a_day_is_not_waited_for() -> None:
    clock = Clock()
    for status in (503, 429):
        with pytest.raises(Refused):
            clock.patience().ask(_answers(status, after="86400"), retries=4)
    assert clock.slept == []


def test_patience_ends() -> None:
    clock = Clock()
    with pytest.raises(Refused) as ended:
        clock.patience(patience_s=20).ask(_answers(*[429] * 9), retries=4)
    # 7 + 7 are within 20 seconds, a third 7 is not.
    assert (ended.value.status, clock.slept) == (429, [7.0, 7.0])


def test_without_patience_it_is_a_retry_like_others() -> None:
    clock = Clock()
    assert clock.patience().ask(_answers(429, 500, None), retries=3) == "yes"
    with pytest.raises(Refused):
        clock.patience().ask(_answers(429, 500, None), retries=2)


def test_what_will_not_pass_is_not_repeated() -> None:
    clock = Clock()
    for status in (400, 401, 404, 422):
        with pytest.raises(Refused):
            clock.patience(patience_s=60).ask(_answers(status), retries=4)
    assert clock.slept == []


def test_an_account_without_money_is_not_waited_for() -> None:
    clock = Clock()

    def request() -> str:
        raise Refused(RuntimeError("429 insufficient_quota"), 429, {"retry-after": "7"})

    with pytest.raises(Refused):
        clock.patience(patience_s=60).ask(request, retries=4)
    assert clock.slept == []


def test_a_pause_is_kept_by_every_request() -> None:
    clock = Clock()
    patience = clock.patience(patience_s=60)
    with pytest.raises(Refused):
        patience.ask(_answers(429, 400), retries=0)
    clock.slept.clear()
    clock.now = 103.0  # four seconds before the pause ends at 107
    assert patience.ask(_answers(), retries=0) == "yes"
    assert clock.slept == [4.0]


def test_requests_of_a_minute_are_spread_over_it() -> None:
    clock = Clock()
    patience = clock.patience(per_minute=30)
    for _ in range(4):
        patience.ask(_answers(), retries=0)
    assert clock.slept == [2.0, 2.0, 2.0]


def test_without_a_word_of_the_server_pauses_grow() -> None:
    clock = Clock()
    patience = clock.patience()
    assert patience.ask(_answers(*[503] * 8, after=""), retries=8) == "yes"
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(0.75 * most <= s <= most for s, most in zip(clock.slept, longest, strict=True))


def test_a_date_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    assert asked_pause({"retry-after": formatdate(1_000_030, usegmt=True)}) == 30.0
    assert asked_pause({"retry-after": formatdate(999_000, usegmt=True)}) == 0.0
    assert asked_pause({"retry-after": "soon"}) is None
