"""Batches for tests of the loss alone: no model reads them."""

import torch

from rl.loss import PolicyBatch


def loss_batch(
    old: torch.Tensor,
    engine: torch.Tensor,
    advantage: torch.Tensor,
    mask: torch.Tensor,
    sequence: torch.Tensor,
    num_sequences: int,
    reference: torch.Tensor | None = None,
) -> PolicyBatch:
    """Of N reply tokens in a row of themselves."""
    none = torch.zeros(len(mask), dtype=torch.long)
    return PolicyBatch(
        input_ids=none, document=none.int(), position=none, target=none, sequence=sequence,
        engine=engine, advantage=advantage, mask=mask, version=none, num_sequences=num_sequences,
        old=old, reference=reference,
    )  # fmt: skip
