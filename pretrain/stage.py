"""Stage kind `pretrain`: a blend in, the hybrid base model out as a plain checkpoint."""

import torch
from transformers import PreTrainedTokenizerBase

from model.hybrid import Hybrid, build_config, load_model, save_model
from model.layers.isolation import check_isolation
from model.tokenizer import read_tokenizer
from pretrain.config import PretrainConfig, TrainingConfig
from pretrain.documents import BlendDocuments
from pretrain.rows import RowStream
from pretrain.train import Hooks, Objective, Trainer
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.distributed import group
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Build the model and train it on the blend."""
    config: PretrainConfig = context.config
    if config.distributed.on or config.activations != "keep":
        raise UserError(
            "pretraining runs in one process and keeps its activations so far; set distributed: "
            "{workers: 1, strategy: none} and activations: keep (sft has both)"
        )
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = load_tokenizer(context)
    model = initial_model(context, len(tokenizer), str(group.place(config)))
    train(context, model, tokenizer)


def train(
    context: StageContext,
    model: Hybrid,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective | None = None,
) -> None:
    """Train on the stage's blend and save; continues from the newest checkpoint.

    objective: what is minimised; None: cross entropy of the next token.
    """
    config: TrainingConfig = context.config
    check_isolation(model)
    documents = BlendDocuments(config.blend, tokenizer, context.seed)
    trainer = Trainer(model, RowStream(documents, config.row_tokens), config, objective)
    checkpoints = Checkpoints(context.stage_dir / "checkpoints")
    state = checkpoints.load_latest()
    if state is not None:
        trainer.load_state_dict(state)
        context.metrics.truncate_after(trainer.step)
    context.note(parameters=sum(p.numel() for p in model.parameters()), phases=_phases(config))
    finished = trainer.fit(_hooks(context, config), checkpoints)
    context.outputs["data"] = documents.accounting()
    context.outputs["tokens"] = trainer.tokens
    if not finished:
        context.stop()
    save_model(model, context.stage_dir / "model", tokenizer)


def initial_model(context: StageContext, vocab_size: int, device: str) -> Hybrid:
    """A new model of the recipe's shape, or the parent stage's, as `initial` says."""
    config: PretrainConfig = context.config
    if config.initial == "parent":
        return load_model(context.parent_model, device=device)
    overrides = {**context.recipe.model.overrides, "vocab_size": vocab_size}
    shape = build_config(context.recipe.model.preset, **overrides)
    return load_model(shape, device=device, seed=context.seed)


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


def _hooks(context: StageContext, config: TrainingConfig) -> Hooks:
    return Hooks(
        log=lambda step, metrics, tokens: context.log_metrics(step, metrics, tokens=tokens),
        progress=lambda step, tokens: context.progress(
            step=step, total=config.num_steps, tokens=tokens, message="train"
        ),
        should_stop=context.should_stop,
    )


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
