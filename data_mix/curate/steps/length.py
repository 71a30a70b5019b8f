"""Texts that are too short or too long."""

from data_mix.curate.config import LengthStep
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item, says


class Length(RowStep):
    """See LengthStep."""

    def __init__(self, config: LengthStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config = config

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        size = len(says(item.row))
        if size < self._config.least:
            return self.removed("too short")
        if self._config.most is not None and size > self._config.most:
            return self.removed("too long")
        return None
