"""One simulated engine: continuous batching between events, in closed form. No torch."""

import heapq
from collections import deque
from collections.abc import Iterable

from rl.simulation.parts import Asked, Decoding

_CLOSE = 1e-6  # iterations; what rounding leaves of a sequence that has ended


class SimulatedEngine:
    """Sequences join as seats get free, and each takes as many iterations as its reply has tokens.

    Between two events the number of sequences is the same, so nothing is stepped token by token.
    """

    def __init__(self, decoding: Decoding, seats: int) -> None:
        self.decoding, self.seats = decoding, seats
        self.waiting: deque[tuple[int, Asked]] = deque()
        self.active: list[tuple[float, int, Asked]] = []
        """A heap of (iteration in which it ends, place, what was asked)."""
        self.iterations = 0.0
        self.tokens = 0.0
        """Sampled so far; a lost sequence's are in it too."""
        self.busy_s = 0.0
        self._at = self._free_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked of it."""
        return not self.active and not self.waiting

    def submit(self, now: float, asked: Iterable[tuple[int, Asked]]) -> None:
        """Take over requests under their places."""
        self.advance(now)
        self.waiting.extend(asked)
        self._admit()

    def pause(self, now: float, seconds: float) -> None:
        """Sample nothing for so long, from now on or behind what it waits for already."""
        self.advance(now)
        self._free_at = max(self._free_at, now) + seconds

    def lose(self, now: float, back_s: float) -> None:
        """Die, and begin all that has not ended again once it is back."""
        self.advance(now)
        again = [(place, asked) for _, place, asked in self.active]
        self.active = []
        self.waiting.extendleft(reversed(sorted(again)))
        self._free_at = now + back_s
        self._admit()

    def drop(self, now: float) -> None:
        """Forget all requests."""
        self.advance(now)
        self.active, self._free_at = [], now
        self.waiting.clear()

    def advance(self, now: float) -> None:
        """Work until this moment."""
        begun = max(self._at, self._free_at)
        self._at = max(self._at, now)
        if now <= begun or not self.active:
            return
        done = (now - begun) / self.decoding.iteration_s(len(self.active))
        self.iterations += done
        self.tokens += done * len(self.active)
        self.busy_s += now - begun

    def ended(self, now: float) -> list[int]:
        """The places of replies that end now; others take their seats."""
        self.advance(now)
        places = []
        while self.active and self.active[0][0] <= self.iterations + _CLOSE:
            places.append(heapq.heappop(self.active)[1])
        if places:
            self._admit()
        return places

    def next_end(self) -> float | None:
        """When the next reply ends if nothing happens before."""
        if not self.active:
            return None
        left = max(self.active[0][0] - self.iterations, 0.0)
        begun = max(self._at, self._free_at)
        return begun + left * self.decoding.iteration_s(len(self.active))

    def _admit(self) -> None:
        prompts = 0
        while self.waiting and len(self.active) < self.seats:
            place, asked = self.waiting.popleft()
            heapq.heappush(self.active, (self.iterations + asked.reply, place, asked))
            prompts += asked.prompt
        seconds = prompts * self.decoding.prompt_s
        if seconds:
            self._free_at = max(self._free_at, self._at) + seconds
            self.busy_s += seconds
