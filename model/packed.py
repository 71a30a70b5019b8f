"""Packed rows and the loss of their next tokens: what every training on rows shares."""

from typing import NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from model.head import linear_head, must_not_share
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
    """Cross entropy of the model's own logits, summed over valid tokens (scalar, fp32)."""
    device = next(model.parameters()).device
    head = linear_head(model)
    with autocast(model, precision):
        targets = context.local(model, shifted_labels(rows).to(device))
        if head is not None:
            hidden = head.read(last_hidden(model, rows))
            return linear_cross_entropy(hidden, head.weight, targets)
        logits = whole_logits(model, rows).flatten(0, 1)
        return functional.cross_entropy(
            logits.float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )


def last_hidden(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """What the output layer reads [B, T, hidden], with documents isolated.

    Where processes share each row it is this one's slice of it (model.layers.context).
    """
    device = next(model.parameters()).device
    out: torch.Tensor = model.base_model(
        input_ids=rows.input_ids.to(device), seq_idx=rows.seq_idx.to(device), use_cache=False
    ).last_hidden_state
    return out


def whole_logits(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """All logits [B, T, V], with documents isolated: of models whose output layer is more than a product.
    Raises: UserError where processes share each row."""
    must_not_share(model)
    device = next(model.parameters()).device
    out: torch.Tensor = model(
        input_ids=rows.input_ids.to(device), seq_idx=rows.seq_idx.to(device), use_cache=False
    ).logits
    return out


def shifted_labels(rows: Rows) -> torch.Tensor:
    """The token to predict at each position [B, T]; -100 for none."""
    return functional.pad(rows.labels[:, 1:], (0, 1), value=IGNORED)
