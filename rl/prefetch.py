"""The rollouts of each step, sampled ahead of the trainer by a bounded number of updates.

Sampling of step s begins once the trainer has published version s - max_staleness, so no token of it
can be older than that when the trainer gets there. Steps are formed in the order of the prompts,
never in the order in which replies end: that would favour short ones.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rl.sample import Rollout, Sampled


class StalenessError(RuntimeError):
    """A token is older, or newer, than prefetching can have made it: a bug, never trained on."""


# position of a step's first prompt -> its rollouts
Collect = Callable[[int], Sampled]


class Prefetch:
    """`take(step)` gives the rollouts of each step in turn, `published(version)` lets sampling go on."""

    def __init__(
        self, collect: Collect, *, max_staleness: int, step: int, num_steps: int, position: int
    ) -> None:
        self._collect, self.max_staleness = collect, max_staleness
        self._num_steps, self._version = num_steps, step
        self._first, self._position = step, position
        self._changed = threading.Condition()
        self._ready: deque[Sampled] = deque()
        self._error: BaseException | None = None
        self._closed = self._paused = self._sampling = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="rollouts")
        if max_staleness > 0:
            self._thread.start()

    def take(self, step: int) -> Sampled:
        """The rollouts of this step; waits for it. Raises: what sampling raised, StalenessError."""
        if self.max_staleness == 0:
            sampled = self._collect(self._position)
            self._position = sampled.position
        else:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._error is not None)
                if not self._ready:
                    assert self._error is not None
                    raise self._error
                sampled = self._ready.popleft()
        check_versions(sampled.groups, step, self.max_staleness)
        return sampled

    def published(self, version: int) -> None:
        """The engine now holds this version."""
        with self._changed:
            self._version = version
            self._changed.notify_all()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is sampled meanwhile; what is at work ends first. An engine has one batch at a time."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: not self._sampling)
        try:
            yield
        finally:
            with self._changed:
                self._paused = False
                self._changed.notify_all()

    def close(self) -> None:
        """End the sampling; what it is at may still end first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            for step in range(self._first, self._num_steps):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._may_begin(step))  # noqa: B023
                    if self._closed:
                        return
                    self._sampling = True
                sampled = self._collect(self._position)
                self._position = sampled.position
                with self._changed:
                    self._sampling = False
                    self._ready.append(sampled)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again where the trainer waits
            with self._changed:
                self._error, self._sampling = error, False
                self._changed.notify_all()

    def _may_begin(self, step: int) -> bool:
        return not self._paused and step <= self._version + self.max_staleness


def check_versions(groups: Sequence[Sequence[Rollout]], step: int, max_staleness: int) -> None:
    """Every token of every reply was sampled by one of the versions step - max_staleness to step."""
    for group in groups:
        for done in (turn.completion for rollout in group for turn in rollout.turns):
            if done.finish_reason == "error":
                continue
            if len(done.versions) != len(done.token_ids):
                raise StalenessError("a reply's tokens do not all carry their policy version")
            wrong = [v for v in done.versions if not step - max_staleness <= v <= step]
            if wrong:
                raise StalenessError(
                    f"step {step} got tokens of policy version {wrong[0]}; allowed: "
                    f"{step - max_staleness} to {step} (max_staleness {max_staleness})"
                )
