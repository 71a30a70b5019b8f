"""Stage kind `pretrain`: a blend in, the hybrid base model out as a plain checkpoint."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.fp8.linear import convert
from model.fp8.products import check_device
from model.held_out import next_token_estimates, single_rows
from model.hybrid import Hybrid, build_config, load_model, save_model
from model.layers.isolation import check_isolation
from model.sharding.check import check_shards
from model.sharding.files import read_sharded, write_sharded
from model.sharding.shard import set_activations
from model.tokenizer import read_tokenizer
from pretrain.config import PretrainConfig, TrainingConfig
from pretrain.documents import BlendDocuments, other_documents
from pretrain.prefetch import Ahead, SharedRows
from pretrain.rows import RowStream
from pretrain.train import Objective, Trainer, TrainingHooks
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import Mesh, make_mesh
from workbench.distributed.state import ShardedCheckpoints, resume
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.records import Estimate
from workbench.stage import StageContext
from workbench.validation import Validation

_INITIAL = "initial"
_SHARED_SCALES = (
    "fp8.granularity tensor: documents of a row share scales, so that they are not isolated; this stage is "
    "for comparison alone"
)


def run(context: StageContext) -> None:
    """Build the model and train it on the blend."""
    config: PretrainConfig = context.config
    prepare(context)
    tokenizer = load_tokenizer(context)
    if config.distributed.on:
        # Written once, here; each worker reads its share.
        if config.initial == "new":
            context.progress(message="making the model")
            model = new_model(context, len(tokenizer), "cpu")
            save_model(model, context.stage_dir / _INITIAL, tokenizer)
            del model
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "pretrain.stage:train_worker")
        shutil.rmtree(context.stage_dir / _INITIAL, ignore_errors=True)
        return
    place = str(group.place(config))
    if config.initial == "parent":
        model = load_model(context.parent_model, device=place)
    else:
        model = new_model(context, len(tokenizer), place)
    make_ready(context, model)
    train(context, model, tokenizer)


def train_worker(context: StageContext) -> None:
    """One worker of a distributed stage."""
    config: PretrainConfig = context.config
    prepare(context)
    group.place(config)
    own = context.stage_dir / _INITIAL
    shards = ShardedSource(
        own if config.initial == "new" else context.parent_model, make_mesh(config.distributed)
    )
    train(context, shards.read(config), load_tokenizer(context), shards=shards)


@dataclass(frozen=True)
class ShardedSource:
    """Where a sharded model comes from, and the layout that it is in."""

    origin: Path
    mesh: Mesh

    def read(self, config: TrainingConfig) -> PreTrainedModel:
        """The model, each process its share, proved to isolate documents."""
        model = read_sharded(
            self.origin, self.mesh, precision=config.computed, fp8=config.quantised
        )
        check_shards(model)
        return model


def train(
    context: StageContext,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective | None = None,
    shards: ShardedSource | None = None,
) -> None:
    """Train a model that is ready on the stage's blend and save; continues from the newest checkpoint.

    objective: what is minimised; None: cross entropy of the next token. shards: where the model is
    sharded; None: it is one process's.
    """
    config: TrainingConfig = context.config
    set_activations(model, config.activations)
    documents: BlendDocuments | None = None
    if group.is_first():
        documents = BlendDocuments(config.blend, tokenizer, context.seed)
    rows = _rows(documents, config, shards)
    trainer = Trainer(
        model,
        rows,
        config,
        objective,
        mesh=shards.mesh if shards else None,
        validation=_validation(context, model, tokenizer),
    )
    folder = context.stage_dir / "checkpoints"
    resumed = resume(trainer, folder, model, trainer.optimizer)
    if group.is_first():
        if resumed:
            context.metrics.truncate_after(trainer.step)
        context.note(parameters=sum(p.numel() for p in model.parameters()), phases=_phases(config))
    saves = ShardedCheckpoints if shards else Checkpoints
    checkpoints = saves(
        folder, keep=max(2, config.keep_checkpoints), spared=lambda: trainer.validation.kept_step
    )
    with closing(rows):
        finished = trainer.fit(_hooks(context, config), checkpoints)
    if documents is not None:
        context.keep(data=rows.accounting())
    context.keep(tokens=trainer.tokens)
    if not finished:
        context.stop()
    if (best := trainer.validation.must_return(trainer.step)) is not None:
        trainer.return_to(folder, best)
    target = context.stage_dir / "model"
    if shards:
        write_sharded(model, target, like=shards.origin, tokenizer=tokenizer)
    else:
        save_model(model, target, tokenizer)


def _validation(
    context: StageContext, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Validation:
    """Loss and accuracy on other documents, in every process of a training."""
    config: TrainingConfig = context.config
    wanted = config.validation
    if wanted is None:
        return Validation()
    documents = group.from_first(
        lambda: other_documents(wanted, tokenizer, config.row_tokens, context.seed)
    )
    rows = single_rows(
        documents, batch=config.microbatch_rows, pad=int(tokenizer.pad_token_id or 0),
        multiple=config.distributed.context,
    )  # fmt: skip
    names = [str(number) for number in range(len(documents))]

    def measure() -> dict[str, Estimate]:
        if group.is_first():
            context.progress(message="validation")
        return next_token_estimates(model, rows, names, config.computed)

    return Validation(wanted, measure, by=wanted.by, note=group.first_notes(context))


def _rows(
    documents: BlendDocuments | None, config: TrainingConfig, shards: ShardedSource | None
) -> Ahead | SharedRows:
    ahead = None
    if documents is not None:
        stream = RowStream(documents, config.row_tokens)
        ahead = Ahead(stream, num_rows=config.rows_per_step, num_steps=config.num_steps)
    if shards is not None:
        return SharedRows(ahead)
    assert ahead is not None
    return ahead


def prepare(context: StageContext) -> None:
    """What every process of a training sets up first."""
    config: TrainingConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    if config.quantised is not None:
        check_device(group.device())  # before anything is made or read


def make_ready(context: StageContext, model: PreTrainedModel) -> None:
    """Let the model of one process compute as the stage says, proved to isolate documents."""
    config: TrainingConfig = context.config
    how = config.quantised
    if how is not None and how.granularity == "tensor":
        check_isolation(model, config.computed)
        convert(model, how, model.device)
        context.warn(_SHARED_SCALES)
        return
    if how is not None:
        convert(model, how, model.device)
    check_isolation(model, config.computed)


def new_model(context: StageContext, vocab_size: int, device: str) -> Hybrid:
    """A new model of the recipe's shape."""
    overrides = {**context.recipe.model.overrides, "vocab_size": vocab_size}
    shape = build_config(context.recipe.model.preset, **overrides)
    model = load_model(shape, device=device, seed=context.seed)
    if context.config.output_layer == "embeddings":
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    return model


def load_tokenizer(context: StageContext) -> PreTrainedTokenizerBase:
    """The tokenizer of the first needed stage that has one."""
    for folder in context.inputs.values():
        for place in (folder / "tokenizer", folder / "model"):
            if (place / "tokenizer.json").is_file():
                return read_tokenizer(place)
    raise UserError(
        f"stage {context.name!r} needs a stage that makes a tokenizer (kind tokenizer); "
        f"its needs: {', '.join(context.inputs) or 'none'}"
    )


def _hooks(context: StageContext, config: TrainingConfig) -> TrainingHooks:
    def log(step: int, metrics: dict[str, float], tokens: int) -> None:
        if group.is_first():
            context.log_metrics(step, metrics, tokens=tokens)

    def progress(step: int, tokens: int) -> None:
        if group.is_first():
            context.progress(step=step, total=config.num_steps, tokens=tokens, message="train")

    def should_stop() -> bool:
        return group.from_first(context.should_stop)

    return TrainingHooks(log=log, progress=progress, should_stop=should_stop)


def _phases(config: TrainingConfig) -> list[dict[str, int | str]]:
    """Token ranges of the blend's phases, for the report's loss plot."""
    total = config.num_steps * config.step_tokens
    start = 0
    out: list[dict[str, int | str]] = []
    for number, phase in enumerate(config.blend.phases, start=1):
        end = round(total * phase.until)
        out.append({"name": f"phase {number}", "start_token": start, "end_token": end})
        start = end
    return out
