"""Where a training's rows come from: made ahead of the step, in one order for all processes."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import torch

from model.packed import Rows
from workbench.distributed import group


class Stream(Protocol):
    """Rows in the process that opens the sources: pretrain.rows, or the same ahead of time."""

    def batch(self, num_rows: int, progress: float) -> Rows:
        """The next rows of the whole step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...

    def accounting(self) -> dict[str, Any]:
        """What was drawn of the sources, for the manifest."""
        ...


class StepRows(NamedTuple):
    """A step's rows, and what the stream says of itself behind them."""

    rows: Rows
    state: dict[str, Any]
    account: dict[str, Any]


class Ahead:
    """The rows of a stream, made in a thread while earlier steps compute: the tokenizer holds no lock.

    num_rows, num_steps: of the training. depth: steps that are made ahead, at most. Each step's rows carry
    the state and the account of the stream behind them, so that what is saved and what the manifest says
    know nothing of those that wait.
    """

    def __init__(self, stream: Stream, *, num_rows: int, num_steps: int, depth: int = 2) -> None:
        self.stream, self.num_rows, self.num_steps = stream, num_rows, num_steps
        self._depth = depth
        self._waiting = deque[tuple[int, Future[StepRows]]]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._given: StepRows | None = None  # last

    def batch(self, num_rows: int, progress: float) -> Rows:
        """The next rows of the whole step. Raises: UserError where the sources do."""
        step = round(progress * self.num_steps)
        assert (num_rows, progress) == (self.num_rows, step / self.num_steps)
        following = self._waiting[-1][0] + 1 if self._waiting else step
        for number in range(following, min(step + self._depth + 1, self.num_steps)):
            self._waiting.append((number, self._thread.submit(self._make, number)))
        made, future = self._waiting.popleft()
        assert made == step, f"rows of step {made} wait, and step {step} asks"
        self._given = future.result()
        return self._given.rows

    def _make(self, step: int) -> StepRows:
        rows = self.stream.batch(self.num_rows, step / self.num_steps)
        return StepRows(rows, self.stream.state_dict(), self.stream.accounting())

    def state_dict(self) -> dict[str, Any]:
        """The stream's, as if nothing were made ahead."""
        return self.stream.state_dict() if self._given is None else self._given.state

    def accounting(self) -> dict[str, Any]:
        """The stream's, as if nothing were made ahead."""
        return self.stream.accounting() if self._given is None else self._given.account

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._forget()
        self._given = None
        self.stream.load_state_dict(state)

    def close(self) -> None:
        """End the thread. Sources are left where they are: to go back might open them anew."""
        self._forget()
        self._thread.shutdown()

    def _forget(self) -> None:
        """Wait for what is being made, and drop it."""
        for _, future in self._waiting:
            if not future.cancel():
                with suppress(Exception):  # of rows that nobody asked for
                    future.result()
        self._waiting.clear()


class SharedRows:
    """A step's rows in every process, from the stream of the first. Every process must ask for them.

    stream: None in all other processes, which open no source.
    """

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def batch(self, num_rows: int, progress: float) -> Rows:
        """The next rows of the whole step. Raises: UserError in all processes where the sources do."""

        def draw() -> list[torch.Tensor]:
            assert self.stream is not None
            # Half the bytes on the way: no vocabulary needs more than 31 bits.
            return [part.int() for part in self.stream.batch(num_rows, progress)]

        ids, labels, seq_idx = group.from_first(draw)
        return Rows(ids.long(), labels.long(), seq_idx)

    def state_dict(self) -> dict[str, Any]:
        """The stream's in the first process, which alone saves it."""
        return {} if self.stream is None else self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue; only the first process has anything to continue."""
        if self.stream is not None:
            self.stream.load_state_dict(state)

    def accounting(self) -> dict[str, Any]:
        """What was drawn, in the first process, which alone keeps it."""
        return {} if self.stream is None else self.stream.accounting()

    def close(self) -> None:
        """End what makes rows ahead, in the first process."""
        if isinstance(self.stream, Ahead):
            self.stream.close()
