"""How near a student is to its teacher on rows that no training reads."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.head import must_be_linear
from model.layers import context
from model.loss import IGNORED, logit_slices
from model.packed import Rows, last_hidden, shifted_labels
from model.sharding.shard import inside, whole
from pretrain.compress.config import DistillConfig, PruneConfig
from pretrain.documents import BlendDocuments
from pretrain.rows import RowStream
from workbench.records import to_json
from workbench.statistics import mean_interval_normal, paired_difference

FIGURES = ("kl", "next_token_loss", "agreement", "teacher_next_token_loss")
"""Of a row, means over its valid tokens. agreement: share of tokens at which both find the same one
most likely. The rest in nats."""


def held_out_rows(
    config: DistillConfig | PruneConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> list[Rows]:
    """The recipe's held-out documents, one row a batch; none where it names none."""
    if config.held_out is None:
        return []
    stream = RowStream(BlendDocuments(config.held_out, tokenizer, seed), config.row_tokens)
    return stream.along(config.held_out_rows, batch_rows=1)


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


def _stream(
    model: PreTrainedModel, rows: Rows, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the output layer's matrix [V, D] is for, at the places that count, and that matrix."""
    head = must_be_linear(model, what="a comparison of distributions")
    hidden = inside(model, lambda m: last_hidden(m, rows)).flatten(0, 1).cpu()[keep]
    return head.read(hidden), whole(head.weight)


def _of_rows(student: PreTrainedModel, teacher: PreTrainedModel, rows: Rows) -> list[float]:
    targets = context.local(student, shifted_labels(rows)).flatten()
    keep = targets != IGNORED
    targets = targets[keep]
    sums = torch.zeros(len(FIGURES), dtype=torch.float64)
    streams = [_stream(model, rows, keep) for model in (student, teacher)]
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
    count = torch.tensor([float(len(targets))], dtype=torch.float64)
    if (shared := context.group_of(student)) is not None:  # each process has a slice of the row
        for summed in (sums, count):
            dist.all_reduce(summed, group=shared)
    return (sums / count).tolist()


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def summary(
    before: dict[str, list[float]], after: dict[str, list[float]], teacher: str = "the teacher"
) -> dict[str, Any]:
    """For the manifest: the distance, each figure with its 95% interval over rows and the change paired
    by row; and of these the agreement, for the report."""
    what = {
        "kl": "nats from the teacher's distribution",
        "next_token_loss": "nats a held-out token",
        "agreement": f"held-out tokens whose likeliest is that of {teacher}",
    }
    distance = {
        name: to_json(
            paired_difference(
                before[name], after[name], what=words, unit="rows", share=name == "agreement"
            )
        )
        for name, words in what.items()
    }
    own = to_json(mean_interval_normal(before[FIGURES[3]]))
    return {
        "distance": {"n": len(before["kl"]), **distance, FIGURES[3]: own},
        "differences": [distance["agreement"]],
    }
