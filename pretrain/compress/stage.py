"""Stage kind `prune`: a hybrid in, a smaller one out, a plain checkpoint without any training."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from model.hybrid import Hybrid, load_model, save_model
from model.layers.isolation import check_isolation
from model.packed import Rows
from model.tokenizer import read_tokenizer
from pretrain.compress.chance import chance_difference
from pretrain.compress.config import PruneConfig, TargetConfig
from pretrain.compress.depth import Removal, remove_layers
from pretrain.compress.held_out import held_out_rows
from pretrain.compress.importance import width_scores
from pretrain.compress.prune import KeptParts, choose, narrow, without_layers
from pretrain.compress.target import WIDTHS, check_target, shape_of, target_of
from pretrain.documents import BlendDocuments
from pretrain.rows import RowStream
from workbench.checkpoint import seed_everything
from workbench.distributed import group
from workbench.memory import keep_freed_memory
from workbench.records import to_json
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Score and cut the layers, then the widths of what is left; save. Scores are in fp32."""
    config: PruneConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    model = load_model(context.parent_model, device=str(group.place(config))).eval()
    target = target_of(config, shape_of(model.config))
    check_target(target, shape_of(model.config), config.removable)
    check_isolation(model, "fp32")
    context.note(parameters_before=_count(model))
    context.progress(message="reading data")
    documents = BlendDocuments(config.blend, tokenizer, context.seed)
    batches = RowStream(documents, config.row_tokens).along(config.samples, config.microbatch_rows)
    # Before anything is scored: a source that lacks them says so at once.
    held_out = held_out_rows(config, tokenizer, context.seed)
    if target.layers is not None:
        model = _cut_depth(context, model, batches, target.layers)
    if any(getattr(target, key) is not None for key in WIDTHS):
        model = _cut_width(context, model, batches, target)
    if held_out:
        _compare_with_chance(context, model, target, batches, held_out)
    context.keep(
        target=target.model_dump(exclude_none=True),
        parameters=_count(model),
        pattern=shape_of(model.config).pattern,
    )
    save_model(model, context.stage_dir / "model", tokenizer)


def _cut_depth(
    context: StageContext, model: Hybrid, batches: list[Rows], num_layers: int
) -> Hybrid:
    """Remove layers, one a round; a stopped stage continues behind the last whole round."""
    config: PruneConfig = context.config
    pattern = shape_of(model.config).pattern
    done: list[dict[str, Any]] = [*context.outputs.get("removed_layers", [])]
    context.keep(removed_layers=done)
    context.metrics.truncate_after(len(done))

    def note(removal: Removal) -> None:
        done.append({**asdict(removal), "kind": pattern[removal.layer]})
        context.log_metrics(len(done), {"removal_mse": removal.mse})
        context.note(removed_layers=done)

    kept = remove_layers(
        model,
        batches,
        count=len(pattern) - num_layers,
        candidates=[i for i, letter in enumerate(pattern) if letter in config.removable],
        removed=[removal["layer"] for removal in done],
        tick=_tick(context, "scoring layers"),
        on_removal=note,
    )
    device = next(model.parameters()).device
    # A card has no room for the model before and after.
    return without_layers(model.cpu(), kept).to(device).eval()


def _cut_width(
    context: StageContext, model: Hybrid, batches: list[Rows], target: TargetConfig
) -> Hybrid:
    config: PruneConfig = context.config
    scores = width_scores(model, batches, tick=_tick(context, "scoring widths"))
    kept = choose(scores, shape_of(model.config), target)
    context.keep(kept=_written(kept))
    return narrow(model.cpu(), kept, target, scores if config.rescale_norms else None)


def _compare_with_chance(
    context: StageContext,
    chosen: Hybrid,
    target: TargetConfig,
    batches: list[Rows],
    held_out: list[Rows],
) -> None:
    config: PruneConfig = context.config
    place = str(group.place(config))
    context.progress(message="choosing at random")
    found, draws = chance_difference(
        load_model(context.parent_model, device=place).eval(),
        chosen.to(place).eval(),
        target,
        config,
        batches,
        held_out,
        context.seed,
        _tick(context, "choosing at random"),
    )
    context.keep(differences=[to_json(found)], random_kl=draws)


def _tick(context: StageContext, message: str) -> Callable[[], None]:
    def tick() -> None:
        context.progress(message=message)
        if context.should_stop():
            context.stop()

    return tick


def _written(kept: KeptParts) -> dict[str, Any]:
    """What stays of the Mamba heads, for the manifest; neurons and channels are too many to list."""
    return {
        "mamba_heads": {str(i): m.heads.tolist() for i, m in kept.mamba.items()},
        "mamba_channels": {str(i): m.channels.tolist() for i, m in kept.mamba.items()},
    }


def _count(model: Hybrid) -> int:
    return sum(p.numel() for p in model.parameters())
