"""Packed rows and the loss of their next tokens: what every training on rows shares."""

from typing import NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from model.layers import context
from model.loss import IGNORED, linear_cross_entropy


class Rows(NamedTuple):
    """A batch. input_ids [B, T] int64; labels [B, T], -100 where nothing is predicted;
    seq_idx [B, T] int32, the number of the document each token belongs to, within its row."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    seq_idx: torch.Tensor

    @property
    def num_valid(self) -> int:
        """Number of predicted tokens (labels after the shift)."""
        return int((self.labels[:, 1:] != IGNORED).sum())


def autocast(model: PreTrainedModel, precision: str) -> torch.autocast:
    """What a model is called in: bf16 products with fp32 weights where the precision is bf16."""
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")


def token_loss_sum(model: PreTrainedModel, rows: Rows, precision: str) -> torch.Tensor:
    """Cross entropy summed over valid tokens (scalar, fp32)."""
    device = next(model.parameters()).device
    with autocast(model, precision):
        hidden = last_hidden(model, rows)
        targets = context.local(model, shifted_labels(rows).to(device))
        return linear_cross_entropy(hidden, model.get_output_embeddings().weight, targets)


def last_hidden(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """What the output layer reads [B, T, hidden], with documents isolated.

    Where processes share each row it is this one's slice of it (model.layers.context).
    """
    device = next(model.parameters()).device
    out: torch.Tensor = model.base_model(
        input_ids=rows.input_ids.to(device), seq_idx=rows.seq_idx.to(device), use_cache=False
    ).last_hidden_state
    return out


def shifted_labels(rows: Rows) -> torch.Tensor:
    """The token to predict at each position [B, T]; -100 for none."""
    return functional.pad(rows.labels[:, 1:], (0, 1), value=IGNORED)
