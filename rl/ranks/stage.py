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
from workbench.distributed.state import ShardedCheckpoints, resume, return_to
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

    offset: steps of earlier trainings. The loop's validation says when to end early, and which weights stay.
    Raises: StopRequested.
    """
    model, optimizer, validation = loop.core.model, loop.core.optimizer, loop.validation
    resume(loop, folder, model, optimizer)
    if group.is_first():
        context.metrics.truncate_after(offset + loop.step)
    saves = ShardedCheckpoints(
        folder, keep=max(2, loop.config.keep_checkpoints), spared=lambda: validation.kept_step
    )
    found, stop = validation.at(loop.step), False
    if found and group.is_first():
        context.log_metrics(offset + loop.step, found)
    if found and validation.must_save(loop.step):
        saves.save(loop.step, loop.state_dict())
    while loop.step < loop.order.num_steps and not stop and not validation.ended:
        made = loop.train_step()
        found = {name: made[name] for name in names.values() if name in made}
        found |= validation.at(loop.step, last=loop.step == loop.order.num_steps)
        if group.is_first():
            context.log_metrics(offset + loop.step, found)
            context.progress(step=loop.step, total=loop.order.num_steps, message=about)
        stop = group.from_first(context.should_stop)
        due = loop.step % loop.config.checkpoint_every_steps == 0
        if stop or due or validation.must_save(loop.step):
            saves.save(loop.step, loop.state_dict())
    saves.finish()
    if stop:
        context.stop()
    if (best := validation.must_return(loop.step)) is not None:
        loop.load_weights(return_to(folder, best, model, optimizer))


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
