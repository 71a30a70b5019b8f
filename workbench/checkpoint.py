"""Resumable state of a training loop: one file a checkpoint, appearing by rename.

State is tensors and plain values, and only such a file is opened: a pickle can run code.
"""

import pkgutil
import random
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from workbench.errors import UserError, one_line
from workbench.files import whole_file

Spared = Callable[[], int | None]
"""The step of a checkpoint that must stay, asked for whenever older ones are deleted."""


class Saves(Protocol):
    """Where a state is saved: `Checkpoints`, or workbench.distributed.state where several processes share it."""

    def save(self, step: int, state: dict[str, Any]) -> Any:
        """Save the state of a step, now or while the training goes on."""
        ...

    def finish(self) -> None:
        """Wait for what is still being saved."""
        ...


class Checkpoints:
    """The checkpoints/ folder of a stage; keeps the newest `keep`, and the step that `spared` names."""

    def __init__(self, folder: Path, *, keep: int = 2, spared: Spared = lambda: None) -> None:
        self.folder, self.keep, self.spared = folder, keep, spared

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write step-N.pt by rename, then delete older ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        for left in self.folder.glob(".*"):  # halves of a killed process: nobody else writes here
            left.unlink(missing_ok=True)
        save_whole(state, path)
        odd = get_unsafe_globals_in_checkpoint(path)
        assert not odd, f"the state holds {', '.join(odd)}: it could never be continued from"
        for old in older_states(self.folder, self.keep, self.spared()):
            old.unlink() if old.is_file() else shutil.rmtree(old)
        return path

    def finish(self) -> None:
        """Nothing: `save` returns when the file is there."""

    def paths(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state, or None. Raises: UserError where the file is damaged or holds more."""
        paths = self.paths()
        return load_state(paths[-1]) if paths else None


def states(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first: files of one process, folders of many."""
    return sorted(folder.glob("step-*"), key=lambda path: path.name.partition(".")[0])


def older_states(folder: Path, keep: int, spared: int | None = None) -> list[Path]:
    """All but the newest `keep` and the one of the step `spared`."""
    return [path for path in states(folder)[:-keep] if step_of(path) != spared]


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name.partition(".")[0].rsplit("-", 1)[1])


def load_state(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The mapping of tensors and plain values in a file. Raises: UserError where it is not that.

    mmap: tensors are read from the file when they are used.
    """
    state = _load(path, mmap=mmap)
    if not isinstance(state, dict):
        raise damaged(path, f"it holds a {type(state).__name__}")
    return state


def check_plain(path: Path, *, allowed: Collection[str] = ()) -> None:
    """Raises: UserError where a file holds more than tensors, plain values and the classes `allowed`
    ("module.name"). For files that a library opens, perhaps less carefully."""
    _load(path, allowed=allowed, mmap=True)


def _load(path: Path, *, allowed: Collection[str] = (), mmap: bool = False) -> Any:
    try:
        odd = set(get_unsafe_globals_in_checkpoint(path))  # names in the file; none is called
        if not odd <= set(allowed):
            raise UserError(
                f"{path} is not opened: it asks for {', '.join(sorted(odd - set(allowed)))[:200]}, and "
                "state is tensors and plain values; delete it to continue from the one before, or "
                "rerun --fresh"
            )
        classes = [pkgutil.resolve_name(name) for name in allowed if odd]
        with safe_globals(classes):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGED as error:
        raise damaged(path, one_line(error)) from None


# What torch raises for files that are cut short, of another form, or made to break it.
_DAMAGED = (
    RuntimeError, EOFError, OSError, UnpicklingError, ValueError, KeyError, TypeError, IndexError,
    AttributeError, AssertionError, BadZipFile,
)  # fmt: skip


def damaged(path: Path, why: str) -> UserError:
    """One line for a checkpoint that cannot be read."""
    return UserError(
        f"checkpoint {path} is damaged ({why[:200]}); delete it to continue from the one before, or "
        "rerun --fresh"
    )


def check_same_tensors(own: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Raises: UserError unless a checkpoint's tensors have the names and shapes of a model's."""
    problems = {
        "missing": sorted(own.keys() - kept.keys()),
        "unexpected": sorted(kept.keys() - own.keys()),
        "of another shape": [
            f"{name} {list(kept[name].shape)} instead of {list(own[name].shape)}"
            for name in sorted(own.keys() & kept.keys())
            if own[name].shape != kept[name].shape
        ],
    }
    found = [
        f"{len(names)} {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise UserError(
            f"the checkpoint is of another model: tensors {'; '.join(found)}; continue or fork one of the "
            "same shape"
        )


def save_whole(state: Any, path: Path) -> None:
    """torch.save by rename; where it fails, nothing is left. Raises: OSError on a full disk."""
    with whole_file(path, sync=True) as half:
        torch.save(state, half)


def rng_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `rng_state()`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
