"""One order of rows for all processes: the first one cuts them from the sources and hands them out."""

from typing import Any

import torch

from model.packed import Rows
from pretrain.rows import RowStream
from workbench.distributed import group


class SharedRows:
    """A step's rows in every process, from the stream of the first. Every process must ask for them.

    stream: None in all other processes, which open no source.
    """

    def __init__(self, stream: RowStream | None) -> None:
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
