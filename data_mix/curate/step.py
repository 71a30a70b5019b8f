"""The step protocol: what is done to the rows of `curate`, one step after another.

A step is opened once in each worker process, from its section of the recipe. It is given items in batches,
changes `item.row` in place, counts what it found (`item.counts[f"{self.name}/equations"] += 2`), and says of
each item whether it goes on (None), is removed, or could not be decided. Nothing else may depend on the
batch: a row's outcome is the same whichever rows it travels with.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from data_mix.shards import Failed, Item, Removed
from workbench.errors import UserError, one_line

Decision = Removed | Failed | None


class CurateStep(ABC):
    """Decides on batches of rows. name: what it is called in figures."""

    batch_rows = 1
    """Rows that it wants to see at once, at least."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begins(self, number: int) -> None:  # noqa: B027 - few steps keep anything by shard
        """The rows of another shard follow: for a step that keeps something beside it."""

    @abstractmethod
    def decide(self, items: Sequence[Item]) -> list[Decision]:
        """One decision an item, in their order."""

    def removed(self, reason: str) -> Removed:
        """A decision against a row."""
        return Removed(self.name, reason)

    def failed(self, reason: str) -> Failed:
        """No decision."""
        return Failed(self.name, reason)

    def count(self, item: Item, what: str, number: int = 1) -> None:
        """Count something found in a row."""
        if number:
            item.counts[f"{self.name}/{what}"] += number


class RowStep(CurateStep):
    """Decides on one row at a time. An error of its own fails that row alone."""

    def decide(self, items: Sequence[Item]) -> list[Decision]:
        """See CurateStep."""
        return [self._safely(item) for item in items]

    def _safely(self, item: Item) -> Decision:
        try:
            return self.one(item)
        except UserError:
            raise  # a mistake in the recipe or the data's columns: the same for every row
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a page does to a parser
            return self.failed(one_line(error)[:120])

    @abstractmethod
    def one(self, item: Item) -> Decision:
        """Decide on one row."""
