"""Stage kind `sft`: conversations in, a fine-tuned plain checkpoint out."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from budget.told import tell_what_is_kept
from budget.truncation import truncate_share
from data_mix.spilled import Spilled
from data_mix.supervised import each_conversation
from environments.config import EnvironmentSource
from environments.solutions import solutions
from model.fp8.linear import convert
from model.fp8.products import check_device
from model.held_out import next_token_estimates, single_rows
from model.hybrid import save_model
from model.layers.isolation import check_isolation
from model.layers.routing import Routing
from model.lora import add_adapters, load_base, merge_adapters, save_adapters
from model.tokenizer import read_tokenizer
from sft.config import PartConfig, SftConfig
from sft.examples import (
    SampleAccounting,
    add_stripped,
    to_rows,
    unrolled,
    with_replies,
    worked_in_answer,
)
from sft.rendering import rendered
from sft.samples import PackedRows, write_samples
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
from workbench.strict_trainer import MetricsCallback, train_strictly
from workbench.validation import Validation

_SAMPLES, _HELD_OUT = "samples", "validation.json"
_HALF = ".samples"  # becomes the other by rename, with all that is in it
_ACCOUNTING = "accounting.json"


def run(context: StageContext) -> None:
    """Build the rows, train, merge adapters, save."""
    config: SftConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    if config.quantised is not None and not config.distributed.on:
        check_device(group.device())
    tokenizer = read_tokenizer(context.parent_model)
    folder = _kept_rows(context, tokenizer)
    if config.distributed.on:
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "sft.stage:train_worker")
    else:
        _train(context, tokenizer, as_dataset(PackedRows(folder)))
    shutil.rmtree(folder)


def _kept_rows(context: StageContext, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of the stage's rows: as an earlier attempt left it, whole, or made now."""
    folder, half = context.stage_dir / _SAMPLES, context.stage_dir / _HALF
    if not folder.is_dir():
        context.progress(message="reading data")
        shutil.rmtree(half, ignore_errors=True)

        def tell(done: int, total: int) -> None:
            context.progress(step=done, total=total, message="tokenising samples")
            if context.should_stop():
                context.stop()

        _, held_out, accounting = build_rows(
            context.config, tokenizer, context.seed, half, tell=tell
        )
        if held_out is not None:
            write_json(context.stage_dir / _HELD_OUT, held_out)
        (half / _ACCOUNTING).write_text(json.dumps(accounting.as_dict()))
        half.rename(folder)
    data = json.loads((folder / _ACCOUNTING).read_text())
    context.note(data=data)
    context.warn(*_warnings(data))
    return folder


def _warnings(data: dict[str, Any]) -> list[str]:
    return [
        f"part {part!r}: {count:,} conversations without a final assistant turn were left out"
        for part, count in data["without_reply"].items()
    ] + [
        f"part {part!r}: {count:,} conversations were left out ({reason})"
        for part, reasons in data["left_out"].items()
        for reason, count in reasons.items()
    ]


def train_worker(context: StageContext) -> None:
    """One worker of a distributed stage: the same training, on its share of every step's rows."""
    config: SftConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    folder = context.stage_dir / _SAMPLES
    if config.distributed.sharded:
        group.place(config)
        rows = PackedRows(folder)
        train_sharded(context, tokenizer, rows, lambda m: validation_of(context, m, tokenizer))
    else:
        multiple = config.microbatch_rows * config.distributed.workers
        _train(context, tokenizer, as_dataset(whole_batches(folder, multiple)))


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
        config.validation, measure, by=config.validation.by, note=group.first_notes(context)
    )


def as_dataset(rows: PackedRows) -> Dataset:
    """What TRL asks for: the rows' numbers, which become rows when a batch is read."""
    return Dataset.from_dict({"row": range(len(rows))}).with_transform(rows.columns)


def whole_batches(folder: Path, multiple: int) -> PackedRows:
    """With rows of one token and no loss behind, so that every worker has as many microbatches.

    Without them the loader would fill up with real rows, which would count twice.
    """
    return PackedRows(folder, spare=-len(PackedRows(folder)) % multiple)


def build_rows(
    config: SftConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    folder: Path,
    *,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PackedRows, list[Any] | None, SampleAccounting]:
    """The whole training set from the stage's parts, in files of `folder`, and what it is validated by
    (None: nothing): the samples and what each of them asks.

    tell: is told now and then how many samples of how many are tokenised.
    """
    accounting = SampleAccounting()
    whole = Spilled(folder)
    whole.extend(collect(config.parts, seed, accounting))
    held_out: list[Any] | None = None
    if (wanted := config.validation) is not None:
        further = list(collect(wanted.parts, seed, SampleAccounting()))
        if wanted.share is not None:
            every, whole = whole, Spilled(folder)
            further = split_share(every, wanted.share, seed, kept=whole)
        *held_out, accounting.validation = validation_samples(
            whole, further, wanted, tokenizer, row_tokens=config.row_tokens
        )
    accounting.stripped = add_stripped(whole, config.strip_reasoning_share, seed)
    if config.truncation:
        cut = config.truncation
        accounting.truncated = truncate_share(
            whole,
            cut.share,
            tokenizer=tokenizer,
            min_tokens=cut.min_tokens,
            max_tokens=cut.max_tokens,
            rng=random.Random(seed),
        )
    if config.told:
        accounting.told = tell_what_is_kept(whole, config.told, tokenizer)
    samples = write_samples(folder, rendered(whole, tokenizer, config.data_workers, tell))
    rows = to_rows(
        samples,
        row_tokens=config.row_tokens,
        concatenate=config.concatenate,
        drop_longer=config.drop_longer,
        seed=seed,
        accounting=accounting,
    )
    return rows, held_out, accounting


def collect(
    parts: Mapping[str, PartConfig], seed: int, accounting: SampleAccounting
) -> Iterator[Conversation]:
    """The parts' conversations, in the recipe's order; those without a reply are left out."""
    for name, part in parts.items():
        taken: Iterator[Conversation]
        if isinstance(part.source, EnvironmentSource):
            taken = iter(solutions(part.source, part.samples, seed))
        else:
            taken = each_conversation(part.source, part.samples, name=name, seed=seed)
        if part.loss == "all":
            taken = (reply for conversation in taken for reply in unrolled(conversation))
        for conversation in with_replies(taken, part=name, accounting=accounting):
            worked = part.reasoning == "answer"
            yield worked_in_answer(conversation) if worked else conversation


def _train(context: StageContext, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    """Train on the rows, merge adapters, save the model. In every worker, or in the one process."""
    config: SftConfig = context.config
    model = load_base(context.parent_model, config.lora, str(group.place(config)))
    if config.quantised is not None:
        convert(model, config.quantised, model.device)
    if config.concatenate:
        check_isolation(model, config.computed)
    if config.lora:
        add_adapters(model, config.lora)
    checkpoints = context.stage_dir / "checkpoints"
    arguments = trl_config(config, checkpoints, context.seed)
    routing = Routing(model, coefficient=config.router_loss)
    callback = MetricsCallback(
        context, LOGGED, about="train", validation=validation_of(context, model, tokenizer),
        more=lambda: routing.metrics(group.totals),
    )  # fmt: skip
    trainer = StrictSFTTrainer(
        model=model,
        args=arguments,
        data_collator=RowCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.routing = routing
    draws = config.lora is not None and config.lora.dropout > 0
    # Parts of a microbatch are without its padding, which the router's loss has counted.
    trainer.threads = 1 if draws or config.router_loss else config.threads
    train_strictly(trainer, callback, checkpoints)
    weights = trainer.whole_weights()
    if group.is_first():
        if config.lora:
            folder = context.stage_dir / "adapter"
            save_adapters(model, config.lora, folder, str(context.parent_model))
            merge_adapters(model)
        save_model(model, context.stage_dir / "model", tokenizer, weights=weights)
    group.barrier()
