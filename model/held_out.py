"""Loss and accuracy of a model's next tokens on rows that it is not trained on, row by row."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from model.head import linear_head
from model.layers import context
from model.loss import IGNORED, logit_slices
from model.packed import Rows, autocast, last_hidden, shifted_labels, whole_logits
from model.sharding.shard import inside, whole
from workbench.records import Estimate
from workbench.statistics import ratio_interval

Sample = tuple[Sequence[int], Sequence[int]]
"""Ids [T] and labels [T], -100 where nothing is predicted: one document."""


def single_rows(
    samples: Sequence[Sample], *, batch: int, pad: int, multiple: int = 1
) -> list[Rows]:
    """Batches of at most `batch` samples, one a row. multiple: what T is a multiple of.

    Padding is a document of its own at the row's end, without loss: it reaches nobody.
    """
    out = []
    for at in range(0, len(samples), batch):
        part = samples[at : at + batch]
        longest = max(len(ids) for ids, _ in part)
        width = longest + -longest % multiple
        ids = torch.full((len(part), width), pad)
        labels = torch.full((len(part), width), IGNORED)
        seq_idx = torch.ones((len(part), width), dtype=torch.int32)
        for row, (own, marks) in enumerate(part):
            ids[row, : len(own)] = torch.tensor(own)
            labels[row, : len(own)] = torch.tensor(marks)
            seq_idx[row, : len(own)] = 0
        labels[:, 0] = IGNORED
        out.append(Rows(ids, labels, seq_idx))
    return out


@torch.no_grad()
def next_token_sums(model: PreTrainedModel, rows: Rows, precision: str) -> torch.Tensor:
    """Of each row [B, 3], in fp64: nats, predictions that are right, and predicted tokens.

    Where the model is sharded every process must call it, with the same rows; all get the same.
    """
    device = next(model.parameters()).device
    targets = context.local(model, shifted_labels(rows).to(device))
    number = torch.arange(len(targets), device=device)[:, None].expand_as(targets)
    counted = targets != IGNORED
    picked, row = targets[counted], number[counted]
    sums = torch.zeros(len(targets), 3, dtype=torch.float64, device=device)
    for part, logits in _logits(model, rows, counted, precision):
        loss = logits.logsumexp(1) - logits.gather(1, picked[part][:, None])[:, 0]
        right = logits.argmax(1) == picked[part]
        found = torch.stack([loss.double(), right.double(), torch.ones_like(right).double()], 1)
        sums.index_add_(0, row[part], found)
    if (shared := context.group_of(model)) is not None:  # each process has a slice of every row
        dist.all_reduce(sums, group=shared)
    return sums.cpu()


def _logits(
    model: PreTrainedModel, rows: Rows, counted: torch.Tensor, precision: str
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices over the places that are counted [B, T], and their logits [slice, V] in fp32."""
    head = linear_head(model)
    with autocast(model, precision):
        made = inside(model, lambda m: last_hidden(m, rows) if head else whole_logits(m, rows))
    if head is None:
        flat = made[counted]
        for part in logit_slices(len(flat), flat.shape[-1], flat.device):
            yield part, flat[part].float()
        return
    dtype = torch.bfloat16 if precision == "bf16" else made.dtype
    weight, flat = whole(head.weight).to(dtype), head.read(made[counted]).to(dtype)
    for part in logit_slices(len(flat), len(weight), flat.device):
        yield part, torch.mm(flat[part], weight.T).float()


def next_token_estimates(
    model: PreTrainedModel, rows: Sequence[Rows], groups: Sequence[str], precision: str
) -> dict[str, Estimate]:
    """`loss` (nats a token) and `accuracy` (share of tokens) over all predicted tokens.

    groups: of each row what its sample asks; the interval of a ratio of sums is clustered by it.
    """
    was_training = model.training
    model.eval()
    sums = torch.cat([next_token_sums(model, part, precision) for part in rows])
    model.train(was_training)
    nats, right, tokens = (column.tolist() for column in sums.T)
    return {
        "loss": ratio_interval(tokens, nats, groups),
        "accuracy": ratio_interval(tokens, right, groups),
    }
