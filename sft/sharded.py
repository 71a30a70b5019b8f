"""SFT on the trainer core: TRL's training of the same rows, in processes that share the model.

Order of the rows, schedule, optimizer and loss are those of TRL's trainer, which is the oracle of the
tests; state continues in any number of processes.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler
from transformers.trainer_utils import align_special_tokens

from model.checkpoint import check_state
from model.layers.routing import Routing
from model.lora import has_adapters, load_trained_state, trained_state
from model.packed import Rows, token_loss_sum
from model.sharding.check import check_shards
from model.sharding.core import Core
from model.sharding.files import read_sharded, write_adapters, write_sharded
from model.sharding.shard import set_activations
from sft.config import SftConfig
from sft.samples import EMPTY_ROW
from sft.trainer import RowCollator
from workbench.checkpoint import check_same_tensors, rng_state, set_rng_state
from workbench.distributed import group
from workbench.distributed.mesh import Mesh, make_mesh
from workbench.distributed.order import RowOrder
from workbench.distributed.state import ShardedCheckpoints, resume, return_to
from workbench.stage import StageContext
from workbench.validation import Validation

# transformers' Trainer decays everything else.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


class RowTable(Protocol):
    """Rows by number, read when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> Any: ...


class SftLoop:
    """Model, optimizer, rows and schedule of one training, and their common state."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: RowTable,
        config: SftConfig,
        seed: int,
        mesh: Mesh | None,
    ) -> None:
        self.config, self.rows = config, rows
        self.order = RowOrder(len(rows), config.rows_per_step, config.epochs, seed)
        self.core = Core(model, _adamw(model, config), mesh=mesh, threads=config.threads)
        warmup = math.ceil(self.order.num_steps * config.warmup_share)
        self._lr = get_scheduler(
            config.lr_scheduler, _one_parameter(), warmup, self.order.num_steps
        ).lr_lambdas[0]  # type: ignore[attr-defined]
        self.routing = Routing(model, coefficient=config.router_loss)
        self.step, self.tokens = 0, 0
        self.validation = Validation()

    def train_step(self) -> dict[str, float]:
        """One optimizer step: the mean over the step's tokens with loss, however split."""
        numbers = self.order.step(self.step)
        part = self.config.microbatch_rows
        shares = 1 if self.core.mesh is None else self.core.mesh.data_size
        spare = -len(numbers) % (part * shares)
        table = [*numbers, *[None] * spare]  # rows without loss: all processes work as often
        collate = RowCollator(0, self.config.distributed.context)
        mine = [self._row(number) for number in self.core.share(table)]
        batches = [_rows(collate(mine[i : i + part])) for i in range(0, len(mine), part)]
        split = self.config.distributed.context  # those that split a row count it all
        valid = round(group.total(sum(b.num_valid for b in batches)) / split)
        self._begin_routing(batches)
        found = self.core.step(
            [lambda b=b: self._loss(b) / valid for b in batches],  # type: ignore[misc]
            lr=self.config.lr * self._lr(self.step), grad_clip=self.config.grad_clip, number=self.step + 1,
        )  # fmt: skip
        self.step += 1
        length = sum(len(row["input_ids"]) for row in mine if row is not EMPTY_ROW)
        self.tokens += round(group.total(length) / split)
        return found | self.routing.metrics(group.totals)

    def _begin_routing(self, batches: Sequence[Rows]) -> None:
        """Rows of nobody are none of the routers' tokens."""
        if self.routing.num_layers:
            own = sum(b.input_ids.numel() for b in batches if b.num_valid)
            self.routing.begin(group.total(own))

    def _loss(self, batch: Rows) -> torch.Tensor:
        """Of the batch's tokens, added up."""
        self.routing.muted = not batch.num_valid  # its backward pass follows before the next batch
        return token_loss_sum(self.core.model, batch, self.config.computed)

    def _row(self, number: int | None) -> Any:
        return EMPTY_ROW if number is None else self.rows[number]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise equal continuation needs."""
        return {
            "step": self.step,
            "model": trained_state(self.core.model),
            "optimizer": self.core.optimizer.state_dict(),
            "stream": {"tokens": self.tokens},
            **self.validation.state_dict(),
            "rng": rng_state(),
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of a state the weights alone. Raises: UserError where they are of another model."""
        check_same_tensors(trained_state(self.core.model), state["model"])
        load_trained_state(self.core.model, state["model"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue. UserError where the state is not of this model and optimizer."""
        if not has_adapters(self.core.model):
            check_state(self.core.model, self.core.optimizer, state)
        load_trained_state(self.core.model, state["model"])
        self.core.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens = int(state["step"]), int(state["stream"]["tokens"])
        self.validation.load_state_dict(state)
        set_rng_state(state["rng"])


def train_sharded(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rows: RowTable,
    validate: Callable[[PreTrainedModel], Validation] = lambda model: Validation(),
) -> None:
    """Train in every worker, each with its share; continues from the newest checkpoint. validate: the
    validations of a model."""
    config: SftConfig = context.config
    mesh = make_mesh(config.distributed)
    model = read_sharded(
        context.parent_model,
        mesh,
        precision=config.computed,
        fp8=config.quantised,
        lora=config.lora,
    )
    check_shards(model)
    set_activations(model, config.activations)
    align_special_tokens(model, tokenizer)
    loop = SftLoop(model.train(), rows, config, context.seed, mesh)
    validation = loop.validation = validate(model)
    folder = context.stage_dir / "checkpoints"
    resume(loop, folder, model, loop.core.optimizer)
    if group.is_first():
        context.metrics.truncate_after(loop.step)
    saves = ShardedCheckpoints(
        folder, keep=max(2, config.keep_checkpoints), spared=lambda: validation.kept_step
    )
    if (found := validation.at(loop.step)) and group.is_first():
        context.log_metrics(loop.step, found, tokens=loop.tokens)
    if found and validation.must_save(loop.step):
        saves.save(loop.step, loop.state_dict())
    stop = False
    while loop.step < loop.order.num_steps and not stop and not validation.ended:
        started = time.perf_counter()
        before = loop.tokens
        found = loop.train_step()
        found["tokens_per_s"] = (loop.tokens - before) / (time.perf_counter() - started)
        found |= validation.at(loop.step, last=loop.step == loop.order.num_steps)
        if group.is_first():
            context.log_metrics(loop.step, found, tokens=loop.tokens)
            context.progress(
                step=loop.step, total=loop.order.num_steps, tokens=loop.tokens, message="train"
            )
        stop = group.from_first(context.should_stop)
        due = loop.step % config.checkpoint_every_steps == 0
        if stop or due or validation.must_save(loop.step):
            saves.save(loop.step, loop.state_dict())
    saves.finish()
    if stop:
        context.stop()
    if (best := validation.must_return(loop.step)) is not None:
        loop.load_weights(return_to(folder, best, model, loop.core.optimizer))
    if config.lora:
        folder = context.stage_dir / "adapter"
        write_adapters(model, config.lora, folder, context.parent_model)
    write_sharded(
        model, context.stage_dir / "model", like=context.parent_model, tokenizer=tokenizer
    )


def _adamw(model: PreTrainedModel, config: SftConfig) -> torch.optim.AdamW:
    """As transformers' Trainer makes it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if not _NO_DECAY.search(name.lower())]
    kept = [p for name, p in named if _NO_DECAY.search(name.lower())]
    groups: Sequence[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, fused=True)


def _one_parameter() -> torch.optim.Optimizer:
    """transformers' schedules are functions of a step that come with an optimizer."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def _rows(batch: dict[str, torch.Tensor]) -> Rows:
    return Rows(batch["input_ids"], batch["labels"], batch["seq_idx"])
