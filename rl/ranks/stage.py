"""A stage on preferences in many processes: read into shards, train, write; every process calls each part."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from model.sharding.check import check_shards
from model.sharding.files import read_sharded, write_adapters, write_sharded
from model.sharding.shard import set_activations, whole
from reward.score_model import new_head, write_head
from rl.ranks.loop import PairLoop
from rl.ranks.rows import SCORE_HEAD
from workbench.distributed import group
from workbench.distributed.mesh import Mesh
from workbench.distributed.state import ShardedCheckpoints, resume
from workbench.stage import StageContext


def policy(parent: Path, mesh: Mesh, config: Any, *, head: bool = False) -> PreTrainedModel:
    """The model to train, in shards, proved to isolate documents; with adapters and a score head where they
    are asked for."""

    model = read_sharded(
        parent,
        mesh,
        precision=config.precision,
        lora=config.lora,
        add=_with_head if head else None,
    )
    check_shards(model)
    set_activations(model, config.activations)
    return model.train()


def _with_head(model: PreTrainedModel) -> dict[str, Tensor]:
    made = new_head(model.config.get_text_config().hidden_size)
    setattr(model, SCORE_HEAD, nn.Linear(made.in_features, 1, bias=False, device="meta"))
    return {f"{SCORE_HEAD}.weight": made.weight.detach()}


def fit(
    context: StageContext,
    loop: PairLoop,
    folder: Path,
    names: Mapping[str, str],
    *,
    about: str,
    offset: int = 0,
) -> None:
    """Train to the end from the newest checkpoint in `folder`. names: metrics that are logged, as values.

    offset: steps of earlier trainings. Raises: StopRequested.
    """
    resume(loop, folder, loop.core.model, loop.core.optimizer)
    if group.is_first():
        context.metrics.truncate_after(offset + loop.step)
    saves = ShardedCheckpoints(folder, keep=max(2, loop.config.keep_checkpoints))
    stop = False
    while loop.step < loop.order.num_steps and not stop:
        found = loop.train_step()
        if group.is_first():
            kept = {name: found[name] for name in names.values() if name in found}
            context.log_metrics(offset + loop.step, kept)
            context.progress(step=loop.step, total=loop.order.num_steps, message=about)
        stop = group.from_first(context.should_stop)
        if stop or loop.step % loop.config.checkpoint_every_steps == 0:
            saves.save(loop.step, loop.state_dict())
    saves.finish()
    if stop:
        context.stop()


def save(
    model: PreTrainedModel,
    target: Path,
    *,
    parent: Path,
    config: Any,
    tokenizer: Any,
    adapters: Path,
    head: bool = False,
) -> None:
    """Write the merged model, the adapters beside it, and the head into it; the folder appears whole."""
    if config.lora:
        write_adapters(model, config.lora, adapters, parent)
    half = target.with_name(f".{target.name}.head") if head else target
    if group.is_first():
        shutil.rmtree(half, ignore_errors=True)
    write_sharded(model, half, like=parent, tokenizer=tokenizer)
    if head:
        weight = whole(getattr(model, SCORE_HEAD).weight.detach())
        if group.is_first():
            write_head(weight, half)
            shutil.rmtree(target, ignore_errors=True)
            half.rename(target)
    group.barrier()
