"""Rows made ahead: the same rows and the same states as of a stream that makes them when asked."""

import threading
from typing import Any

import pytest
import torch

from pretrain.prefetch import Ahead, SharedRows
from pretrain.rows import RowStream
from tests.unit.pretrain.test_rows import Counting
from workbench.errors import UserError

STEPS, ROWS = 7, 2


class Phased(Counting):
    """Documents of another kind from the middle of a training on; remembers where each was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def draw(self, progress: float) -> list[int]:
        self.asked.append(progress)
        found = super().draw(progress)
        return found if progress < 0.5 else [-token for token in found]


def stream() -> RowStream:
    return RowStream(Phased(), 8)


def ahead(depth: int = 2) -> Ahead:
    return Ahead(stream(), num_rows=ROWS, num_steps=STEPS, depth=depth)


def steps(rows: Any, first: int, last: int) -> list[Any]:
    """Rows of each step and the state behind it, as a trainer asks for them; what is ahead is made by then."""
    made = []
    for n in range(first, last):
        batch = rows.batch(ROWS, n / STEPS)
        for _, future in getattr(rows, "_waiting", ()):
            future.exception()
        made.append([*batch, rows.state_dict()])
    return made


def same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for (*rows, state), (*other, wanted) in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(rows, other, strict=True))
        assert state == wanted


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_rows_and_states_are_those_of_the_stream(depth: int) -> None:
    rows = ahead(depth)
    same(steps(rows, 0, STEPS), steps(stream(), 0, STEPS))
    rows.close()


@pytest.mark.parametrize("stopped", range(STEPS + 1))
def test_what_was_saved_at_any_step_continues_exactly(stopped: int) -> None:
    """In a new process, and in the same one, which had made rows beyond."""
    wanted = steps(stream(), 0, STEPS)
    first, new = ahead(), ahead()
    steps(first, 0, stopped)
    saved = first.state_dict()
    new.load_state_dict(saved)
    same(steps(new, stopped, STEPS), wanted[stopped:])
    steps(first, stopped, STEPS)
    first.load_state_dict(saved)
    same(steps(first, stopped, STEPS), wanted[stopped:])
    for rows in (first, new):
        rows.close()


class Unreachable(Phased):
    """A hub that gave its documents and does not answer when it is opened anew."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise UserError("source 'mine': the hub does not answer")


def test_a_training_that_ends_early_accounts_for_what_it_trained_on() -> None:
    """And opens no source for it: a stop is not to fail because a hub does."""
    rows = Ahead(RowStream(Unreachable(), 8), num_rows=ROWS, num_steps=STEPS)
    plain = stream()
    assert rows.accounting() == plain.accounting() == {"drawn": 0}
    steps(rows, 0, 3)
    steps(plain, 0, 3)
    rows.close()
    assert rows.accounting() == SharedRows(rows).accounting() == plain.accounting()
    assert rows.stream.accounting() != plain.accounting() != {"drawn": 0}
    assert SharedRows(None).accounting() == {}
    assert not any(thread.name.startswith("rows") for thread in threading.enumerate())


def test_rows_are_made_while_nobody_asks_and_no_further_than_the_depth() -> None:
    rows = ahead()
    rows.batch(ROWS, 0.0)
    rows._waiting[-1][1].result()  # of the third step; the fourth is not begun
    assert max(rows.stream.source.asked) == 2 / STEPS  # type: ignore[attr-defined]
    rows.close()


def test_an_error_of_the_sources_is_told_at_its_own_step() -> None:
    class Ends(Phased):
        def draw(self, progress: float) -> list[int]:
            if progress >= 2 / STEPS:
                raise UserError("source 'mine' is empty")
            return super().draw(progress)

    rows = Ahead(RowStream(Ends(), 8), num_rows=ROWS, num_steps=STEPS)
    same(steps(rows, 0, 2), steps(stream(), 0, 2))
    with pytest.raises(UserError, match="source 'mine' is empty"):
        rows.batch(ROWS, 2 / STEPS)
    rows.close()
