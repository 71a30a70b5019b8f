"""A stage that begins at a checkpoint of another run: found, copied, and recorded. Imports no torch."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.results import read_outputs
from workbench.rundir import Manifest, RunDir, find_run

_PREFIXES = ("step-", "checkpoint-")
_WHOLE = "anneal_complete.json"
ORIGIN = "origin"
"""Folder of a stage whose weights come from another run's checkpoint, which it holds."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint of a stage of a run."""

    run: Path
    stage: str
    step: int
    path: Path
    manifest: Manifest

    def describe(self) -> str:
        """RUN/STAGE@STEP, as it is asked for."""
        return f"{self.run.name}/{self.stage}@{self.step}"


def find(name: str, *, kind: str, runs: Path) -> Origin:
    """The checkpoint that RUN/STAGE[@STEP | @best] names, the newest without a step.

    RUN is a run's folder, or the name of one in `runs`. Raises: UserError where it is not kept, or is
    another kind's.
    """
    place, _, wanted = name.partition("@")
    above, slash, stage = place.rstrip("/").rpartition("/")
    if not slash or not stage:
        raise UserError(f"fork {name!r:.200}: write RUN/STAGE, RUN/STAGE@STEP or RUN/STAGE@best")
    root = find_run(above, runs)
    if root is None:
        raise UserError(f"fork {name!r:.200}: there is no run {above!r:.150}, here or in {runs}")
    manifest = RunDir(root).manifest(stage) if (root / stage).is_dir() else None
    if manifest is None:
        known = sorted(p.parent.name for p in root.glob("*/manifest.json"))
        raise UserError(
            f"fork {name!r:.200}: run {root.name!r} has no stage {stage!r}; it has {', '.join(known) or 'none'}"
        )
    if manifest.kind != kind:
        raise UserError(
            f"fork {name!r:.200}: it is of kind {manifest.kind} and this stage of kind {kind}; a fork "
            "continues a training of its own kind"
        )
    kept = kept_states(root / stage)
    step = _step(name, wanted, manifest, kept)
    return Origin(root.absolute(), stage, step, kept[step].absolute(), manifest)


def kept_states(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint, of those in a stage's folder that are whole, oldest first."""
    found: dict[int, Path] = {}
    for path in (folder / "checkpoints").glob("*"):
        number = path.name.partition(".")[0].rpartition("-")[2]
        whole = path.name.startswith("step-") or (path / _WHOLE).is_file()
        if path.name.startswith(_PREFIXES) and number.isdecimal() and whole:
            found[int(number)] = path
    return dict(sorted(found.items()))


def _step(name: str, wanted: str, manifest: Manifest, kept: Mapping[int, Path]) -> int:
    if not kept:
        raise UserError(
            f"fork {name!r:.200}: no checkpoint of it is kept; a stage that is done deletes them, unless it "
            "ran with keep_checkpoints: N (its model can be a stage's parent by kind convert)"
        )
    if not wanted:
        return max(kept)
    if wanted == "best":
        validation = read_outputs(manifest.kind, manifest.outputs)[0].validation
        if validation is None or validation.best_step is None:
            raise UserError(f"fork {name!r:.200}: it was not validated, so none is the best")
        wanted = str(validation.best_step)
    if not wanted.isdecimal() or int(wanted) not in kept:
        steps = ", ".join(map(str, kept))
        raise UserError(f"fork {name!r:.200}: step {wanted} is not kept; kept are {steps}")
    return int(wanted)


def check_forks(recipe: Recipe, run: RunDir, stages: Sequence[str]) -> dict[str, Origin]:
    """Stage -> the checkpoint that it begins at. Raises: UserError where one cannot be."""
    found = {}
    for name in stages:
        config = recipe.stages[name]
        if config.fork is None or begun(run, name):
            continue
        origin = find(config.fork.checkpoint, kind=config.kind, runs=run.root.parent)
        if origin.run == run.root and origin.stage == name:
            raise UserError(
                f"fork {config.fork.checkpoint!r:.200} is of this very stage; give the fork a run of its "
                "own with --run NAME"
            )
        steps = getattr(config, "num_steps", None)
        if config.fork.optimizer and isinstance(steps, int) and origin.step >= steps:
            raise UserError(
                f"fork {origin.describe()}: stage {name!r} has {steps} steps, so nothing is left to train; "
                "give it more, or fork.optimizer: false to begin anew with these weights"
            )
        found[name] = origin
    return found


def begun(run: RunDir, stage: str) -> bool:
    """Whether a fork has its checkpoint, from an earlier attempt."""
    folder = run.stage(stage)
    return bool(kept_states(folder)) or (folder / ORIGIN).is_dir() or (folder / "model").is_dir()


def begin(recipe: Recipe, run: RunDir, stage: str) -> dict[str, Any] | None:
    """Copy the checkpoint that a stage begins at into its folder; what the manifest says of it.

    With the optimizer's state it lies among the stage's own checkpoints, and is resumed like one. None
    where the stage is not a fork, or has begun. Raises: UserError.
    """
    fork = recipe.stages[stage].fork
    origin = check_forks(recipe, run, [stage]).get(stage)
    if fork is None or origin is None:
        return None
    folder = run.stage(stage) / ("checkpoints" if fork.optimizer else ORIGIN)
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{origin.path.name}.half"
    shutil.rmtree(half, ignore_errors=True)
    if origin.path.is_dir():
        shutil.copytree(origin.path, half)
    else:
        shutil.copy2(origin.path, half)
    account = {
        "run": str(origin.run),
        "stage": origin.stage,
        "step": origin.step,
        "optimizer": fork.optimizer,
        "sha256": _sha256(half),
        "config_digest": origin.manifest.config_digest,
        "git": origin.manifest.git,
    }
    os.replace(half, folder / origin.path.name)
    return account


def origin_state(stage_dir: Path) -> Path | None:
    """The checkpoint whose weights alone a stage begins with; None: it begins with its parent's."""
    found = [p for p in (stage_dir / ORIGIN).glob("*") if not p.name.startswith(".")]
    return found[0] if found else None


def _sha256(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    whole = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file != path:
            whole.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()
