"""Stage kind `sft`: conversations in, a fine-tuned plain checkpoint out."""

import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from budget.truncation import truncate_share
from data_mix.supervised import take_conversations
from environments.config import EnvironmentSource
from environments.solutions import solutions
from model.fp8.linear import convert
from model.fp8.products import check_device
from model.held_out import next_token_estimates, single_rows
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from model.lora import add_adapters, merge_adapters, save_adapters
from model.tokenizer import read_tokenizer
from sft.config import PartConfig, SftConfig
from sft.examples import (
    Accounting,
    Row,
    add_stripped,
    to_examples,
    to_rows,
    unrolled,
    with_replies,
    worked_in_answer,
)
from sft.sharded import train_sharded
from sft.trainer import LOGGED, RowCollator, StrictSFTTrainer, trl_config
from sft.validation import split_share, validation_samples
from workbench.checkpoint import seed_everything
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.memory import keep_freed_memory
from workbench.records import Estimate
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.strict_trainer import MetricsCallback, first_notes, train_strictly
from workbench.validation import Validation

_ROWS, _HELD_OUT = "rows", "validation.json"


def run(context: StageContext) -> None:
    """Build the rows, train, merge adapters, save."""
    config: SftConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    if config.quantised is not None and not config.distributed.on:
        check_device(group.device())
    context.progress(message="reading data")
    tokenizer = read_tokenizer(context.parent_model)
    rows, held_out, accounting = build_rows(config, tokenizer, context.seed)
    warnings = [
        f"part {part!r}: {count:,} conversations without a final assistant turn were left out"
        for part, count in accounting.without_reply.items()
    ] + [
        f"part {part!r}: {count:,} conversations were left out ({reason})"
        for part, reasons in accounting.left_out.items()
        for reason, count in reasons.items()
    ]
    context.note(data=accounting.as_dict(), warnings=warnings)
    if held_out is not None:
        write_json(context.stage_dir / _HELD_OUT, held_out)
    if not config.distributed.on:
        _train(context, tokenizer, Dataset.from_list([asdict(row) for row in rows]))
        return
    # Built once, here; the workers map the file.
    if not config.distributed.sharded:
        rows = whole_batches(rows, config.microbatch_rows * config.distributed.workers)
    Dataset.from_list([asdict(row) for row in rows]).save_to_disk(context.stage_dir / _ROWS)
    context.progress(message="starting workers")
    run_workers(context, config.distributed, "sft.stage:train_worker")
    shutil.rmtree(context.stage_dir / _ROWS)


def train_worker(context: StageContext) -> None:
    """One worker of a distributed stage: the same training, on its share of every step's rows."""
    config: SftConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    rows = Dataset.load_from_disk(context.stage_dir / _ROWS)
    if config.distributed.sharded:
        group.place(config)
        train_sharded(context, tokenizer, rows, lambda m: validation_of(context, m, tokenizer))
    else:
        _train(context, tokenizer, rows)


def validation_of(context: StageContext, model: Any, tokenizer: Any) -> Validation:
    """Loss and accuracy on the samples that are held out, in every process of a training."""
    config: SftConfig = context.config
    if config.validation is None:
        return Validation()
    samples, problems = read_json(context.stage_dir / _HELD_OUT)
    rows = single_rows(
        samples, batch=config.microbatch_rows, pad=int(tokenizer.pad_token_id or 0),
        multiple=config.distributed.context,
    )  # fmt: skip

    def measure() -> dict[str, Estimate]:
        if group.is_first():
            context.progress(message="validation")
        return next_token_estimates(model, rows, problems, config.computed)

    return Validation(
        config.validation, measure, by=config.validation.by, note=first_notes(context)
    )


def whole_batches(rows: list[Row], multiple: int) -> list[Row]:
    """Add rows of one token and no loss, so that every worker has as many microbatches.

    Without them the loader would fill up with real rows, which would count twice.
    """
    return [*rows, *[Row([0], [-100], [0])] * (-len(rows) % multiple)]


def build_rows(
    config: SftConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[list[Row], list[Any] | None, Accounting]:
    """The whole training set from the stage's parts, and what it is validated by (None: nothing): the
    samples and what each of them asks."""
    accounting = Accounting()
    conversations = collect(config.parts, seed, accounting)
    held_out: list[Any] | None = None
    if (wanted := config.validation) is not None:
        further = collect(wanted.parts, seed, Accounting())
        if wanted.share is not None:
            conversations, further = split_share(conversations, wanted.share, seed)
        *held_out, accounting.validation = validation_samples(
            conversations, further, wanted, tokenizer, row_tokens=config.row_tokens
        )
    whole = add_stripped(conversations, config.strip_reasoning_share, seed)
    accounting.stripped = len(whole) - len(conversations)
    if config.truncation:
        cut = config.truncation
        whole, accounting.truncated = truncate_share(
            whole,
            cut.share,
            tokenizer=tokenizer,
            min_tokens=cut.min_tokens,
            max_tokens=cut.max_tokens,
            rng=random.Random(seed),
        )
    rows = to_rows(
        to_examples(whole, tokenizer),
        row_tokens=config.row_tokens,
        concatenate=config.concatenate,
        drop_longer=config.drop_longer,
        seed=seed,
        accounting=accounting,
    )
    return rows, held_out, accounting


def collect(
    parts: Mapping[str, PartConfig], seed: int, accounting: Accounting
) -> list[Conversation]:
    """The parts' conversations, in the recipe's order; those without a reply are left out."""
    out: list[Conversation] = []
    for name, part in parts.items():
        if isinstance(part.source, EnvironmentSource):
            taken = solutions(part.source, part.samples, seed)
        else:
            taken = take_conversations(part.source, part.samples, name=name, seed=seed)
        if part.loss == "all":
            taken = [reply for conversation in taken for reply in unrolled(conversation)]
        taken = with_replies(taken, part=name, accounting=accounting)
        worked = part.reasoning == "answer"
        out += [worked_in_answer(c) for c in taken] if worked else taken
    return out


def _train(context: StageContext, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    """Train on the rows, merge adapters, save the model. In every worker, or in the one process."""
    config: SftConfig = context.config
    dtype = config.lora.base if config.lora else "float32"
    model = load_model(context.parent_model, dtype=dtype, device=str(group.place(config)))
    if config.quantised is not None:
        convert(model, config.quantised, model.device)
    if config.concatenate:
        check_isolation(model)
    if config.lora:
        add_adapters(model, config.lora)
    checkpoints = context.stage_dir / "checkpoints"
    callback = MetricsCallback(
        context, LOGGED, about="train", validation=validation_of(context, model, tokenizer)
    )
    trainer = StrictSFTTrainer(
        model=model,
        args=trl_config(config, checkpoints, context.seed),
        data_collator=RowCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    draws = config.lora is not None and config.lora.dropout > 0
    trainer.threads = 1 if draws else config.threads
    train_strictly(trainer, callback, checkpoints)
    weights = trainer.whole_weights()
    if group.is_first():
        if config.lora:
            folder = context.stage_dir / "adapter"
            save_adapters(model, config.lora, folder, str(context.parent_model))
            merge_adapters(model)
        save_model(model, context.stage_dir / "model", tokenizer, weights=weights)
    group.barrier()
