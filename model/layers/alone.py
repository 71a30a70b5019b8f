"""Packed rows through a model that cannot isolate documents: each document goes through it alone.

Sliding windows, recurrent states and layers of experts of other families see across documents, or share their
rounding. Taken one by one, documents are isolated by construction, at the price of smaller products.
"""

import logging
from typing import Any

import torch

_log = logging.getLogger(__name__)


class DocumentsAlone:
    """Stands in for a backbone's `forward`. A copy of the model carries a copy of it."""

    def __init__(self, backbone: torch.nn.Module, reason: str) -> None:
        self.backbone, self.reason, self.said = backbone, reason, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's own forward; with seq_idx [B, T], document by document."""
        forward = type(self.backbone).forward
        seq_idx = kwargs.pop("seq_idx", None)
        if seq_idx is None:
            return forward(self.backbone, *args, **kwargs)
        if not self.said:
            self.said = True
            _log.warning(
                "%s takes one document at a time: %s", type(self.backbone).__name__, self.reason
            )
        # Places and padding of the packed row: a document alone has its own.
        kwargs = {k: v for k, v in kwargs.items() if k not in ("position_ids", "attention_mask")}
        name, given = _tokens(args, kwargs)
        rows = []
        for row in range(len(given)):
            _, lengths = torch.unique_consecutive(seq_idx[row], return_counts=True)
            parts = given[row].split(lengths.tolist())
            outputs = [forward(self.backbone, **kwargs | {name: part[None]}) for part in parts]
            rows.append(torch.cat([out.last_hidden_state for out in outputs], dim=1))
        return type(outputs[0])(last_hidden_state=torch.cat(rows))


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, torch.Tensor]:
    """Name and value of what goes in: ids [B, T] or embeddings [B, T, hidden]; taken out of kwargs."""
    embeddings, ids = kwargs.pop("inputs_embeds", None), kwargs.pop("input_ids", None)
    if embeddings is not None:
        return "inputs_embeds", embeddings
    return "input_ids", args[0] if args else ids
