"""How long a server is waited for: requests that it could not take now are repeated, within limits.

A server that is asked too often (429) is left alone by all threads until the time that it names; that
costs patience, and no retry. What else may pass (lost connections, 5xx) costs a retry.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TypeVar

T = TypeVar("T")
TOO_OFTEN = 429
_PASSING = frozenset((408, 409))
_FIRST_S, _LONGEST_S = 0.5, 30.0
# A server without patience_s that asks for more than this is not waited for.
_MOST_S = 600.0
# An account without money answers 429 too; no waiting helps.
_FINAL = ("insufficient_quota", "billing")


def may_pass(status: int | None) -> bool:
    """Whether a status (None: no answer at all) may be another one a little later."""
    return status is None or status in _PASSING or status >= 500


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone for; None where it does not say.

    >>> asked_pause({"retry-after": "7"}), asked_pause({"retry-after-ms": "250"}), asked_pause({})
    (7.0, 0.25, None)
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        if not text:
            continue
        try:
            found = float(text) / unit
        except ValueError:
            try:
                found = parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if math.isfinite(found):
            return max(found, 0.0)
    return None


class Refused(Exception):
    """One failed try. status: of HTTP; None where nothing was answered. error: the last word on it."""

    def __init__(self, error: Exception, status: int | None, headers: Mapping[str, str]) -> None:
        super().__init__(str(error))
        self.error, self.status, self.headers = error, status, headers


class Patience:
    """Of one server. Thread-safe: a pause that it asks for is kept by all."""

    def __init__(
        self,
        *,
        patience_s: float = 0.0,
        per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._patience_s, self._clock, self._sleep = patience_s, clock, sleep
        self._spacing_s = 60.0 / per_minute if per_minute else 0.0
        self._lock, self._not_before, self._next = Lock(), 0.0, 0.0

    def ask(self, request: Callable[[], T], retries: int) -> T:
        """The request's result. Raises: the last `Refused` once retries or patience are spent."""
        tried, retried, waited = 0, 0, 0.0
        while True:
            waited += self._turn()
            try:
                return request()
            except Refused as refused:
                often = refused.status == TOO_OFTEN
                if often and any(word in str(refused) for word in _FINAL):
                    raise
                pause = self._pause(refused, tried)
                tried += 1
                if often and self._patience_s:
                    if waited + pause > self._patience_s:
                        raise
                    self._hold(pause)
                    continue
                retried += 1
                passing = (often or may_pass(refused.status)) and pause <= _MOST_S
                if retried > retries or not passing:
                    raise
                self._sleep(pause)

    def _pause(self, refused: Refused, tried: int) -> float:
        asked = asked_pause(refused.headers)
        own = min(_FIRST_S * 2.0 ** min(tried, 10), _LONGEST_S) * (1 - 0.25 * random.random())
        # What the server asks for is enough, unless it has asked again and again.
        return own if asked is None else asked if tried < 3 else max(asked, own)

    def _hold(self, pause: float) -> None:
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + pause)

    def _turn(self) -> float:
        """Wait for this request's turn; returns how long the server made it wait."""
        with self._lock:
            now = self._clock()
            held = max(self._not_before - now, 0.0)
            start = max(now + held, self._next)
            self._next = start + self._spacing_s
        if start > now:
            self._sleep(start - now)
        return held
