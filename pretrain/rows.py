"""Concat-and-chunk rows for pretraining: every token is used, documents stay apart by seq_idx."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from model.packed import Rows


class DocumentSource(Protocol):
    """What rows are cut from: an endless, resumable stream of tokenized documents."""

    def draw(self, progress: float) -> Sequence[int]:
        """The next document's ids; `progress` in [0, 1) selects the blend's phase."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...

    def accounting(self) -> dict[str, Any]:
        """What was drawn, for the manifest: a snapshot, as `state_dict()` is."""
        ...


@dataclass
class RowStream:
    """Cuts an endless stream of documents into rows of `row_tokens`.

    A document cut by a row's end goes on in the next row as a document of its own (the paper's
    concat-and-chunk loader; it is why long-context rows are 512k).
    """

    source: DocumentSource
    row_tokens: int
    _rest: list[int]

    def __init__(self, source: DocumentSource, row_tokens: int) -> None:
        self.source, self.row_tokens, self._rest = source, row_tokens, []

    def batch(self, num_rows: int, progress: float) -> Rows:
        """The next `num_rows` rows; all start in the same phase."""
        rows = [self._row(progress) for _ in range(num_rows)]
        ids = torch.tensor([ids for ids, _ in rows])
        seq_idx = torch.tensor([number for _, number in rows], dtype=torch.int32)
        return Rows(ids, document_labels(ids, seq_idx), seq_idx)

    def along(self, count: int, batch_rows: int) -> list[Rows]:
        """`count` rows from all phases of the source, at most `batch_rows` in a batch."""
        starts = range(0, count, batch_rows)
        return [self.batch(min(batch_rows, count - at), at / count) for at in starts]

    def _row(self, progress: float) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        number: list[int] = []
        document = 0
        while len(ids) < self.row_tokens:
            piece = self._rest or list(self.source.draw(progress))
            room = self.row_tokens - len(ids)
            ids += piece[:room]
            number += [document] * len(piece[:room])
            self._rest = piece[room:]
            document += 1
        return ids, number

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        return {"rest": list(self._rest), "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._rest = list(state["rest"])
        self.source.load_state_dict(state["source"])

    def accounting(self) -> dict[str, Any]:
        """What was drawn of the source, for the manifest."""
        return self.source.accounting()


def document_labels(ids: torch.Tensor, seq_idx: torch.Tensor) -> torch.Tensor:
    """Labels [B, T] for a loss that shifts by one: -100 on each document's first token.

    After the shift the label at t+1 is predicted from t; across a boundary that would ask one
    document to predict another.
    """
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return ids.masked_fill(first, -100)
