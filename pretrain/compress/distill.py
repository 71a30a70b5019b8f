"""Stage kind `distill`: a student learns a teacher's next-token distributions on a blend."""

import math
import threading
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.head import must_be_linear
from model.hybrid import load_model
from model.layers.context import local
from model.layers.isolation import check_isolation
from model.packed import Rows, autocast, last_hidden, shifted_labels
from model.sharding.check import check_shards
from model.sharding.files import read_sharded
from model.sharding.shard import inside, whole
from model.tokenizer import read_tokenizer
from pretrain.compress.config import DistillConfig
from pretrain.compress.held_out import compare, held_out_rows, summary
from pretrain.compress.kl import linear_kl
from pretrain.stage import ShardedSource, make_ready, prepare, train
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import make_mesh
from workbench.errors import UserError
from workbench.stage import StageContext


class Distillation:
    """The objective: forward KL from the teacher's distributions, on the same packed rows."""

    def __init__(self, teacher: PreTrainedModel) -> None:
        self.teacher = teacher.eval()
        must_be_linear(teacher, what="distill")  # looked at here, outside of any pass
        self._lock = threading.Lock()
        self._parts: list[tuple[float, float]] = []

    def loss_sum(self, model: PreTrainedModel, rows: Rows, precision: str) -> torch.Tensor:
        """KL(teacher || student) summed over the rows' valid tokens, in nats."""
        device = next(model.parameters()).device
        own = must_be_linear(model, what="distill")
        with autocast(model, precision):
            with torch.no_grad():
                goal = inside(self.teacher, lambda teacher: last_hidden(teacher, rows)).to(device)
            theirs = must_be_linear(self.teacher, what="distill")
            found = linear_kl(
                own.read(last_hidden(model, rows)),
                own.weight,
                theirs.read(goal),
                whole(theirs.weight),
                local(model, shifted_labels(rows).to(device)),
            )
        with self._lock:
            self._parts.append((float(found.kl.detach()), float(found.next_token)))
        return found.kl

    def take_metrics(self, num_valid: int) -> dict[str, float]:
        """kd_loss and the student's cross entropy, per valid token."""
        parts, self._parts = self._parts, []
        # fsum: threads end in any order, and the sum must not depend on it.
        kl, next_token = (
            group.total(math.fsum(values)) / num_valid for values in zip(*parts, strict=True)
        )
        return {"kd_loss": kl, "next_token_loss": next_token}


def run(context: StageContext) -> None:
    """Load student and teacher, train the student, save it; compare them on held-out rows."""
    config: DistillConfig = context.config
    prepare(context)
    student_folder, teacher_folder = context.parent_model, _teacher_folder(context)
    if student_folder == teacher_folder:
        raise UserError(
            f"stage {context.name!r}: the first of needs with a model is the teacher "
            f"{config.teacher!r}; put the student's stage first"
        )
    if config.distributed.on:
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "pretrain.compress.distill:train_worker")
        return
    place = str(group.place(config))
    student = load_model(student_folder, device=place)
    teacher = load_model(teacher_folder, dtype=_teacher_dtype(config), device=place)
    check_isolation(teacher, config.computed)
    make_ready(context, student)
    _distill(context, student, teacher, None)


def train_worker(context: StageContext) -> None:
    """One worker of a distributed stage: its shares of student and teacher."""
    config: DistillConfig = context.config
    prepare(context)
    group.place(config)
    shards = ShardedSource(context.parent_model, make_mesh(config.distributed))
    dtype = getattr(torch, _teacher_dtype(config))
    teacher = read_sharded(_teacher_folder(context), shards.mesh, dtype=dtype)
    check_shards(teacher)
    _distill(context, shards.read(config), teacher, shards)


def _teacher_dtype(config: DistillConfig) -> str:
    # Under bf16 autocast its products are in bf16 anyway, and it needs no master weights.
    return "bfloat16" if config.computed == "bf16" else "float32"


def _distill(
    context: StageContext,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    shards: ShardedSource | None,
) -> None:
    config: DistillConfig = context.config
    tokenizer = read_tokenizer(context.parent_model)
    check_pair(student, tokenizer, teacher, read_tokenizer(_teacher_folder(context)))
    rows = group.from_first(lambda: held_out_rows(config, tokenizer, context.seed))
    if rows and "held_out_before" not in context.outputs:
        context.progress(message="comparing with the teacher")
        before = compare(student, teacher, rows)
        if group.is_first():
            context.note(held_out_before=before)
        context.keep(held_out_before=before)
    train(context, student, tokenizer, Distillation(teacher), shards)
    if rows:
        before = context.outputs.pop("held_out_before")
        context.keep(**summary(before, compare(student, teacher, rows), config.teacher))


def _teacher_folder(context: StageContext) -> Path:
    config: DistillConfig = context.config
    folder = context.inputs[config.teacher] / "model"
    if not folder.is_dir():
        raise UserError(
            f"stage {context.name!r}: teacher {config.teacher!r} makes no model; name a stage that does"
        )
    return folder


def check_pair(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raises: UserError unless both predict the same tokens."""
    sizes = [model.get_output_embeddings().weight.shape[0] for model in (student, teacher)]
    if sizes[0] != sizes[1] or tokenizer.get_vocab() != teacher_tokenizer.get_vocab():
        raise UserError(
            f"student and teacher have other vocabularies ({sizes[0]:,} and {sizes[1]:,} tokens); "
            "distillation compares their predictions token by token, so both need one tokenizer"
        )
