"""How near a student is to its teacher on rows that no training reads."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from model.loss import IGNORED, logit_slices
from pretrain.rows import Rows
from pretrain.train import last_hidden, shifted_labels
from workbench.statistics import mean_interval_normal, paired_interval

FIGURES = ("kl", "next_token_loss", "agreement", "teacher_next_token_loss")
"""Of a row, means over its valid tokens. agreement: share of tokens at which both find the same one
most likely. The rest in nats."""


@torch.no_grad()
def compare(
    student: PreTrainedModel, teacher: PreTrainedModel, rows: Sequence[Rows]
) -> dict[str, list[float]]:
    """FIGURES -> a value for each batch of rows."""
    was_training = student.training
    student.eval()
    found = [_of_rows(student, teacher, part) for part in rows]
    student.train(was_training)
    return {name: [values[i] for values in found] for i, name in enumerate(FIGURES)}


def _of_rows(student: PreTrainedModel, teacher: PreTrainedModel, rows: Rows) -> list[float]:
    targets = shifted_labels(rows).flatten()
    keep = targets != IGNORED
    targets = targets[keep]
    sums = torch.zeros(len(FIGURES), dtype=torch.float64)
    streams = [
        (last_hidden(model, rows).flatten(0, 1).cpu()[keep], model.get_output_embeddings().weight)
        for model in (student, teacher)
    ]
    for part in logit_slices(len(targets), len(streams[0][1]), targets.device):
        own, theirs = (
            # In fp32 also where the teacher is bf16: rounded logits would be a distance of their own.
            torch.mm(_wide(hidden[part].to(weight.device)), _wide(weight).T)
            .double()
            .log_softmax(1)
            .cpu()
            for hidden, weight in streams
        )
        picked = targets[part][:, None]
        sums += torch.stack(
            [
                (theirs.exp() * (theirs - own)).sum(),
                -own.gather(1, picked).sum(),
                (own.argmax(1) == theirs.argmax(1)).sum().double(),
                -theirs.gather(1, picked).sum(),
            ]
        )
    return (sums / len(targets)).tolist()


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def summary(before: dict[str, list[float]], after: dict[str, list[float]]) -> dict[str, Any]:
    """For the manifest: each figure before and after with its 95% interval over rows, and the change
    paired by row."""
    out: dict[str, Any] = {"n": len(before["kl"])}
    for name in FIGURES[:3]:
        out[name] = {
            "before": mean_interval_normal(before[name]).as_dict(),
            "after": mean_interval_normal(after[name]).as_dict(),
            "lift": paired_interval(before[name], after[name]).as_dict(),
        }
    out[FIGURES[3]] = mean_interval_normal(before[FIGURES[3]]).as_dict()
    return out
