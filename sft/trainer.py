"""TRL's SFTTrainer on our rows, with a resume that accounts for every tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from model.layers.routing import Routing
from model.strict_resume import StrictResume
from sft.config import SftConfig
from sft.side_by_side import SideBySide
from workbench.distributed import group
from workbench.distributed.zero import deepspeed_config
from workbench.strict_trainer import trl_arguments


@dataclass
class RowCollator:
    """Pads rows to the longest of the batch. input_ids, labels, seq_idx, position_ids: [B, T].

    multiple: what T is a multiple of, where processes share a row.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Padding is a document of its own at the row's end, without loss: it reaches nobody."""
        longest = max(len(row["input_ids"]) for row in rows)
        width = longest + -longest % self.multiple
        ids = torch.full((len(rows), width), self.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        seq_idx = torch.zeros((len(rows), width), dtype=torch.int32)
        for i, row in enumerate(rows):
            n = len(row["input_ids"])
            ids[i, :n] = torch.tensor(row["input_ids"])
            labels[i, :n] = torch.tensor(row["labels"])
            seq_idx[i, :n] = torch.tensor(row["seq_idx"], dtype=torch.int32)
            seq_idx[i, n:] = int(row["seq_idx"][-1]) + 1
        return {
            "input_ids": ids,
            "labels": labels,
            "seq_idx": seq_idx,
            "position_ids": _positions(seq_idx),
        }


def _positions(seq_idx: torch.Tensor) -> torch.Tensor:
    """Position of each token within its document [B, T] (for models with rotary positions)."""
    width = seq_idx.shape[1]
    place = torch.arange(width).expand_as(seq_idx)
    first = torch.ones_like(seq_idx, dtype=torch.bool)
    first[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return place - torch.cummax(torch.where(first, place, 0), dim=1).values


class StrictSFTTrainer(StrictResume, SideBySide, SFTTrainer):
    """SFTTrainer whose checkpoints restore every tensor or fail, and whose CPU rows run in parallel."""

    routing: Routing | None = None
    """What listens to the model's experts, and is told the tokens of each step."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The microbatches of a step, of this process."""
        batches, valid = super().get_batch_samples(*args, **kwargs)
        if self.routing is not None and self.routing.num_layers:
            own = sum(batch["input_ids"].numel() for batch in batches)
            # Processes average their gradients: of them all the loss is a mean too.
            self.routing.begin(group.total(own) / group.workers())
        return batches, valid

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """All tensors of the model, on the CPU, where every worker holds a share; else None.

        Every worker must call it.
        """
        if not is_deepspeed_zero3_enabled():
            return None
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return weights


LOGGED = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
}


def trl_config(config: SftConfig, folder: Path, seed: int) -> TrlConfig:
    """TRL's configuration from ours; `config.trl` passes the rest. Raises: UserError."""
    spread = config.distributed
    accumulate = spread.check_rows(config.rows_per_step, config.microbatch_rows)
    values: dict[str, Any] = {
        "per_device_train_batch_size": config.microbatch_rows,
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": config.lr_scheduler,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "gradient_checkpointing": config.activations != "keep",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "activation_offloading": config.activations == "offload",
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "bf16": config.computed == "bf16",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    if spread.strategy in ("zero2", "zero3"):
        values["deepspeed"] = deepspeed_config(
            spread.strategy,
            precision=config.computed,
            grad_clip=config.grad_clip,
            microbatch_rows=config.microbatch_rows,
            accumulate=accumulate,
        )
    made: TrlConfig = trl_arguments(TrlConfig, config, folder, seed, values)
    return made
