"""Resumable state of a training loop: one file a checkpoint, appearing by rename."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.errors import UserError


class Checkpoints:
    """The checkpoints/ folder of a stage; keeps the newest `keep`."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write step-N.pt by rename, then delete older ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        for left in self.folder.glob(".*"):  # halves of a killed process: nobody else writes here
            left.unlink(missing_ok=True)
        half = path.with_name(f".{path.name}.{os.getpid()}")
        save_whole(state, path, half=half)
        for old in self.paths()[: -self.keep]:
            old.unlink()
        return path

    def paths(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state, or None. Raises: UserError where the file is damaged."""
        paths = self.paths()
        if not paths:
            return None
        try:
            state: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=False)
        except (RuntimeError, EOFError, OSError) as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {paths[-1]} is damaged ({line}); delete it to continue from the one "
                "before, or rerun --fresh"
            ) from None
        return state


def save_whole(state: Any, path: Path, *, half: Path) -> None:
    """torch.save by rename; where it fails, nothing is left. Raises: OSError on a full disk."""
    try:
        with half.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def rng_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
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
