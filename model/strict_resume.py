"""A TRL trainer's checkpoints: of the weights what is trained, restored to the last tensor or refused."""

import os
from pathlib import Path
from typing import Any

from model.lora import has_adapters, load_trained_state, trained_state
from model.zero_adapters import with_adapters_alone
from workbench.checkpoint import check_same_tensors, load_state, save_whole
from workbench.distributed import group
from workbench.rundir import write_json
from workbench.strict_trainer import COMPLETE_FILE, STATE_FILE
from workbench.validation import Validation


class StrictResume:
    """Mixed in before a Trainer: its checkpoints restore every tensor or fail.

    The Trainer saves a NemotronH under `backbone.*` and loads it with strict=False: 1 of 85 tensors
    comes back and the loss jumps, with exit code 0. We keep what is trained instead, all weights or the
    adapters alone, and load that. DeepSpeed keeps and restores its own shards of the same, strictly. The
    last file written says "complete".
    """

    validation = Validation()
    """Its history is part of each checkpoint."""

    def __init__(self, **given: Any) -> None:
        """TRL writes the coefficient of its routers' loss into the model's configuration, which is saved."""
        written = given["model"].config.get_text_config()
        coefficient = getattr(written, "router_aux_loss_coef", None)
        super().__init__(**given)
        if coefficient is not None:
            written.router_aux_loss_coef = coefficient

    def _prepare_for_training(self, *given: Any, **options: Any) -> Any:
        own: Any = self
        if own.is_deepspeed_enabled and has_adapters(own.model):
            own.accelerator.prepare = with_adapters_alone(own.accelerator.prepare)
        return super()._prepare_for_training(*given, **options)  # type: ignore[misc]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: a checkpoint's weights are those that `_save_checkpoint` keeps, once."""
        assert _internal_call and output_dir is not None, "a stage saves its model itself"
        os.makedirs(output_dir, exist_ok=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        own: Any = self
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        folder = Path(own._get_output_dir(trial=trial)) / f"checkpoint-{own.state.global_step}"
        if group.is_first() and not own.is_deepspeed_enabled:
            state = trained_state(own.accelerator.unwrap_model(model))
            save_whole(state, folder / STATE_FILE)
        group.barrier()
        if group.is_first():
            found = {"workers": group.workers()} | own.validation.state_dict()
            write_json(folder / COMPLETE_FILE, found)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own: Any = self
        state = load_state(Path(resume_from_checkpoint) / STATE_FILE)
        target = model if model is not None else own.model
        whole = own.accelerator.unwrap_model(target)
        check_same_tensors(trained_state(whole), state)
        load_trained_state(whole, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The Trainer restores the rates too, over those of a fork's own recipe; to the bit they are the
        same where the recipe is."""
        own: Any = self
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        scheduler: Any = own.lr_scheduler
        if checkpoint is None or own.is_deepspeed_enabled or not hasattr(scheduler, "base_lrs"):
            return
        if scheduler.base_lrs == [own.args.learning_rate] * len(scheduler.base_lrs):
            return
        scheduler.base_lrs = [own.args.learning_rate] * len(scheduler.base_lrs)
        rates = [
            base * share(scheduler.last_epoch)
            for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        scheduler._last_lr = rates
        for part, base, rate in zip(
            own.optimizer.param_groups, scheduler.base_lrs, rates, strict=True
        ):
            part["initial_lr"], part["lr"] = base, rate

    def _load_best_model(self) -> None:
        raise RuntimeError("load_best_model_at_end is not supported: it loads with strict=False")
