"""What every TRL trainer of a stage here shares: options, whole checkpoints, and logs."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.checkpoint import check_plain
from workbench.distributed import group
from workbench.errors import UserError
from workbench.fork import origin_state
from workbench.rundir import read_json
from workbench.stage import StageContext
from workbench.validation import Validation

STATE_FILE = "anneal_model.pt"
COMPLETE_FILE = "anneal_complete.json"


class TrainerSection(Protocol):
    """The recipe fields that every stage on a TRL trainer has."""

    @property
    def epochs(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def warmup_share(self) -> float: ...
    @property
    def grad_clip(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def checkpoint_every_steps(self) -> int: ...
    @property
    def keep_checkpoints(self) -> int: ...
    @property
    def trl(self) -> dict[str, Any]: ...


class PairSection(TrainerSection, Protocol):
    """The recipe fields that every stage on preferences has."""

    @property
    def pairs_per_step(self) -> int: ...
    @property
    def microbatch_pairs(self) -> int: ...
    @property
    def activations(self) -> str: ...
    @property
    def threads(self) -> int: ...


def trl_arguments(
    kind: Any, config: TrainerSection, folder: Path, seed: int, own: Mapping[str, Any]
) -> Any:
    """TRL's configuration of class `kind`: what all stages share, then `own`, then `config.trl`.

    Raises: UserError where TRL refuses an option.
    """
    values: dict[str, Any] = {
        "output_dir": os.fspath(folder),
        "num_train_epochs": config.epochs,
        "learning_rate": config.lr,
        "warmup_steps": config.warmup_share,
        "max_grad_norm": config.grad_clip,
        "bf16": config.precision == "bf16",
        "use_cpu": group.device().type == "cpu",
        "seed": seed,
        "data_seed": seed,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every_steps,
        "save_total_limit": max(2, config.keep_checkpoints),
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
    }
    if "router_aux_loss_coef" in kind.__dataclass_fields__:
        # TRL adds the model's own by default, whose statistics cross documents (and fail on Granite).
        values["router_aux_loss_coef"] = 0.0
    try:
        return kind(**(values | dict(own) | config.trl))
    except (TypeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"TRL refuses the stage's options (see `trl:`): {line}") from None


def pair_arguments(
    kind: Any, config: PairSection, folder: Path, seed: int, own: Mapping[str, Any]
) -> Any:
    """`trl_arguments` of a stage on pairs: pairs_per_step in microbatches of microbatch_pairs."""
    accumulate, rest = divmod(config.pairs_per_step, config.microbatch_pairs)
    if rest:
        raise UserError(
            f"pairs_per_step ({config.pairs_per_step}) must be a multiple of microbatch_pairs "
            f"({config.microbatch_pairs})"
        )
    shared = {
        "per_device_train_batch_size": config.microbatch_pairs,
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": "constant_with_warmup",
        "weight_decay": 0.0,
        "gradient_checkpointing": config.activations != "keep",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    return trl_arguments(kind, config, folder, seed, {**shared, **own})


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None.

    Halves left by `kill -9` are deleted: the Trainer would count them when it deletes old ones.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE_FILE).is_file() and path.name.rsplit("-", 1)[1].isdecimal():
            found.append(path)
        elif group.is_first():
            shutil.rmtree(path)
    newest = max(found, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    if newest is None:
        return None
    _check_checkpoint(newest)
    return os.fspath(newest)


def _check_checkpoint(folder: Path) -> None:
    """Look at what the Trainer, and DeepSpeed below it, are going to open.

    DeepSpeed opens its shards with `weights_only=False`, which runs what a pickle asks for.
    """
    state = read_json(folder / "trainer_state.json")
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise UserError(f"{folder / 'trainer_state.json'} is damaged; delete {folder} to continue")
    for path in sorted(folder.rglob("*.pt")) + sorted(folder.rglob("*.pth")):
        names = _DEEPSPEED if path.name.endswith("_states.pt") else _NUMPY
        check_plain(path, allowed=names if path.name != STATE_FILE else ())


# What else stands in DeepSpeed's shards, and in the Trainer's rng_state.pth.
_DEEPSPEED = (
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
)
_NUMPY = (
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.UInt32DType",
)


class MetricsCallback(TrainerCallback):
    """Carries a trainer's logs to the stage, and the stage's stop request to the trainer.

    names: the trainer's name of a value -> our metric. offset: steps of earlier trainings. more: further
    metrics of a step.
    """

    def __init__(
        self,
        context: StageContext,
        names: Mapping[str, str],
        *,
        offset: int = 0,
        about: str,
        validation: Validation | None = None,
        more: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.context, self.names, self.offset, self.about = context, names, offset, about
        self.more = more
        self.validation = validation or Validation()
        self.save_now: Callable[[], None] = lambda: None
        """Saves a checkpoint at once: the trainer's own, before its first step."""
        self.stopped = False
        self._tokens: int | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """What the model is worth before the first step."""
        if self._validate(args, state):
            self.save_now()

    def _validate(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Validate where that is due. Returns whether this step must be saved."""
        found = self.validation.at(state.global_step, last=state.global_step >= state.max_steps)
        if found and group.is_first():
            self.context.log_metrics(self.offset + state.global_step, found)
        if (kept := self.validation.kept_step) is not None:  # the Trainer then spares it
            state.best_model_checkpoint = os.path.join(args.output_dir or "", f"checkpoint-{kept}")
        return bool(found) and self.validation.must_save(state.global_step)

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
        if "loss" not in values:
            return
        more = self.more()  # asked on every process: what was measured there is forgotten then
        if group.is_first():
            chosen = {new: float(values[old]) for old, new in self.names.items() if old in values}
            tokens = int(float(values.get("num_tokens", 0)))
            self._tokens = tokens or None
            self.context.log_metrics(self.offset + state.global_step, chosen | more, tokens=tokens)

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
                step=state.global_step, total=state.max_steps, message=self.about,
                tokens=self._tokens,
            )  # fmt: skip
        if self._validate(args, state):
            control.should_save = True
        if self.validation.ended:
            control.should_training_stop = True
        if group.any_of(self.context.should_stop()):
            self.stopped = True
            control.should_save = control.should_training_stop = True


def train_strictly(trainer: Any, callback: MetricsCallback, folder: Path) -> None:
    """Train from the newest checkpoint in a folder to the end; the model then has the weights to keep.

    Raises: StopRequested where the stage was asked to stop (state is saved).
    """
    validation = trainer.validation = callback.validation
    callback.save_now = lambda: trainer._save_checkpoint(trainer.model, None)
    resume = last_checkpoint(folder)
    done = int(resume.rsplit("-", 1)[1]) if resume else 0
    if not resume and (origin := origin_state(folder.parent)) is not None:
        _check_checkpoint(origin)
        trainer._load_from_checkpoint(os.fspath(origin))
    if resume:
        validation.load_state_dict(read_json(Path(resume) / COMPLETE_FILE))
    if group.is_first():
        callback.context.metrics.truncate_after(callback.offset + done)
    if resume and validation.ended:  # and the process died before the stage had
        trainer._load_from_checkpoint(resume)
        trainer.state.global_step = done
    else:
        trainer.train(resume_from_checkpoint=resume)
    if callback.stopped:
        callback.context.stop()
    if (best := validation.must_return(trainer.state.global_step)) is not None:
        trainer._load_from_checkpoint(os.fspath(folder / f"checkpoint-{best}"))
