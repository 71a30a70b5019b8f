"""Batches of rollouts for the trainer, sampled ahead of it by a bounded number of updates.

Sampling of step s begins once the trainer has published version s - max_staleness, so no token of it
can be older than that when the trainer gets there. Batches are formed in the order of the prompts,
never in the order in which replies end: that would favour short ones.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rl.rollout import Rollout


class StalenessError(RuntimeError):
    """A token is older, or newer, than the feed can have made it: a bug, never trained on."""


@dataclass(frozen=True)
class Batch:
    """The groups of one step. position: of the next prompt in the endless pool. dropped: groups that
    were sampled too, and taught nothing. began, ended: time.perf_counter() of the sampling.

    Example: Batch([[rollout, rollout]], [], position=1, began=3.0, ended=4.5)
    """

    groups: list[list[Rollout]]
    dropped: list[list[Rollout]]
    position: int
    began: float
    ended: float


# (step, position of its first prompt) -> its batch
Collect = Callable[[int, int], Batch]


class Feed:
    """`take(step)` gives the batch of each step in turn, `published(version)` lets sampling go on."""

    def __init__(
        self, collect: Collect, *, max_staleness: int, step: int, num_steps: int, position: int
    ) -> None:
        self._collect, self.max_staleness = collect, max_staleness
        self._num_steps, self._version = num_steps, step
        self._first, self._position = step, position
        self._changed = threading.Condition()
        self._ready: deque[Batch] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="rollouts")
        if max_staleness > 0:
            self._thread.start()

    def take(self, step: int) -> Batch:
        """The batch of this step; waits for it. Raises: what sampling raised, StalenessError."""
        if self.max_staleness == 0:
            batch = self._collect(step, self._position)
            self._position = batch.position
        else:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._error is not None)
                if not self._ready:
                    assert self._error is not None
                    raise self._error
                batch = self._ready.popleft()
        check_versions(batch.groups, step, self.max_staleness)
        return batch

    def published(self, version: int) -> None:
        """The engine now holds this version."""
        with self._changed:
            self._version = version
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
                batch = self._collect(step, self._position)
                self._position = batch.position
                with self._changed:
                    self._ready.append(batch)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again where the trainer waits
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _may_begin(self, step: int) -> bool:
        return step <= self._version + self.max_staleness


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


def staleness(groups: Sequence[Sequence[Rollout]], step: int) -> float:
    """Mean age of the tokens, in updates."""
    ages = [step - v for group in groups for r in group for t in r.turns
            for v in t.completion.versions]  # fmt: skip
    return sum(ages) / max(len(ages), 1)


def overlap_s(batch: Batch, others: Sequence[tuple[float, float]]) -> float:
    """Seconds of this batch's sampling during which the trainer was at its updates."""
    return sum(max(0.0, min(batch.ended, end) - max(batch.began, start)) for start, end in others)


def timed(collect: Callable[[], tuple[list[list[Rollout]], list[list[Rollout]], int]]) -> Batch:
    """A batch from (groups, dropped, position) with its times."""
    began = time.perf_counter()
    groups, dropped, position = collect()
    return Batch(groups, dropped, position, began, time.perf_counter())
