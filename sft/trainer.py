"""TRL's SFTTrainer on our rows, with a resume that accounts for every tensor."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from sft.config import SftConfig
from workbench.checkpoint import save_whole
from workbench.distributed import group
from workbench.distributed.zero import deepspeed_config
from workbench.errors import UserError
from workbench.rundir import write_json
from workbench.stage import StageContext

_STATE_FILE = "anneal_model.pt"
_COMPLETE_FILE = "anneal_complete.json"


@dataclass
class RowCollator:
    """Pads rows to the longest of the batch. input_ids, labels, seq_idx, position_ids: [B, T]."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Padding is a document of its own at the row's end, without loss: it reaches nobody."""
        width = max(len(row["input_ids"]) for row in rows)
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


class StrictSFTTrainer(SFTTrainer):
    """SFTTrainer whose checkpoints restore every tensor or fail.

    The Trainer saves a NemotronH under `backbone.*` and loads it with strict=False: 1 of 85 tensors
    comes back and the loss jumps, with exit code 0. We keep the state dict beside it and load that.
    DeepSpeed keeps and restores its own shards, strictly. The last file written says "complete".
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if group.is_first() and not self.is_deepspeed_enabled:
            state = self.accelerator.unwrap_model(model).state_dict()
            save_whole(state, folder / _STATE_FILE, half=folder / f".{_STATE_FILE}")
        group.barrier()
        if group.is_first():
            write_json(folder / _COMPLETE_FILE, {"workers": group.workers()})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / _STATE_FILE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {path} is damaged ({line}); delete its folder to continue from the one "
                "before, or rerun --fresh"
            ) from None
        target = model if model is not None else self.model
        self.accelerator.unwrap_model(target).load_state_dict(state, strict=True)

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """All tensors of the model, on the CPU, where every worker holds a share; else None.

        Every worker must call it.
        """
        if not is_deepspeed_zero3_enabled():
            return None
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return weights


class StageCallback(TrainerCallback):
    """Carries the trainer's logs to the stage, and the stage's stop request to the trainer."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.stopped = context, False
        self._tokens: int | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One metrics line a logged step."""
        values = logs or {}
        if "loss" in values and group.is_first():
            names = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
            names |= {"mean_token_accuracy": "token_accuracy", "entropy": "entropy"}
            chosen = {new: float(values[old]) for old, new in names.items() if old in values}
            tokens = int(float(values.get("num_tokens", 0)))
            self._tokens = tokens
            self.context.log_metrics(state.global_step, chosen, tokens=tokens)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Progress, and the stop request."""
        if group.is_first():
            # The tokens of the step before: a step is logged after it has ended.
            self.context.progress(
                step=state.global_step, total=state.max_steps, message="train", tokens=self._tokens
            )
        if group.any_of(self.context.should_stop()):
            self.stopped = True
            control.should_save = control.should_training_stop = True


def trl_config(config: SftConfig, folder: Path, seed: int, *, threads_only_cpu: bool) -> TrlConfig:
    """TRL's configuration from ours; `config.trl` passes the rest. Raises: UserError."""
    spread = config.distributed
    accumulate = spread.check_rows(config.rows_per_step, config.microbatch_rows)
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": config.microbatch_rows,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": config.epochs,
        "learning_rate": config.lr,
        "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": config.warmup_share,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "max_grad_norm": config.grad_clip,
        "bf16": config.precision == "bf16",
        "use_cpu": threads_only_cpu,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every_steps,
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_checkpointing": config.activations != "keep",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "activation_offloading": config.activations == "offload",
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
    }
    if spread.strategy in ("zero2", "zero3"):
        values["deepspeed"] = deepspeed_config(
            spread.strategy,
            precision=config.precision,
            grad_clip=config.grad_clip,
            microbatch_rows=config.microbatch_rows,
            accumulate=accumulate,
        )
    try:
        return TrlConfig(**(values | config.trl))
    except (TypeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"TRL refuses the stage's options (see `trl:`): {line}") from None


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None.

    Halves left by `kill -9` are deleted: the Trainer would count them when it deletes old ones.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE_FILE).is_file():
            found.append(path)
        elif group.is_first():
            shutil.rmtree(path)
    newest = max(found, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    return os.fspath(newest) if newest else None
