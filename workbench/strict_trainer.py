"""What every TRL trainer of a stage here shares: a resume that accounts for every tensor, and logs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.stage import StageContext

_STATE_FILE = "anneal_model.pt"


class StrictResume:
    """Mixed in before a Trainer: its checkpoints restore every tensor or fail.

    The Trainer saves a NemotronH under `backbone.*` and loads it with strict=False: 1 of 85 tensors
    comes back, with exit code 0. The state dict is kept beside it and loaded instead.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        own: Any = self
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        folder = Path(own._get_output_dir(trial=trial)) / f"checkpoint-{own.state.global_step}"
        state = own.accelerator.unwrap_model(model).state_dict()
        half = folder / f".{_STATE_FILE}"
        torch.save(state, half)
        os.replace(half, folder / _STATE_FILE)  # the last file written says "complete"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own: Any = self
        path = Path(resume_from_checkpoint) / _STATE_FILE
        state = torch.load(path, map_location="cpu", weights_only=True)
        target = model if model is not None else own.model
        own.accelerator.unwrap_model(target).load_state_dict(state, strict=True)

    def _load_best_model(self) -> None:
        raise RuntimeError("load_best_model_at_end is not supported: it loads with strict=False")


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None; halves left by `kill -9` are passed over."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if (path / _STATE_FILE).is_file() and (path / "trainer_state.json").is_file()
    ]
    newest = max(found, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    return os.fspath(newest) if newest else None


class MetricsCallback(TrainerCallback):
    """Carries a trainer's logs to the stage, and the stage's stop request to the trainer.

    names: the trainer's name of a value -> our metric. offset: steps of earlier trainings.
    """

    def __init__(
        self, context: StageContext, names: Mapping[str, str], *, offset: int = 0, about: str
    ) -> None:
        self.context, self.names, self.offset, self.about = context, names, offset, about
        self.stopped = False

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
        if "loss" in values:
            chosen = {new: float(values[old]) for old, new in self.names.items() if old in values}
            tokens = int(float(values.get("num_tokens", 0)))
            self.context.log_metrics(self.offset + state.global_step, chosen, tokens=tokens)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Progress, and the stop request."""
        self.context.progress(step=state.global_step, total=state.max_steps, message=self.about)
        if self.context.should_stop():
            self.stopped = True
            control.should_save = control.should_training_stop = True
