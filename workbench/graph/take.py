"""Finished stages that another run has already: taken over in place of being run again. Imports no torch.

Evaluations are the exception. Results of all stages and sweeps lie together, with comparisons between them, so
their stages run; every reply that another run has is taken over, and none of those is sampled again.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from workbench import registry
from workbench.errors import UserError
from workbench.graph.dag import decide
from workbench.recipe import Recipe
from workbench.records import SAMPLES
from workbench.rundir import EVALS, TAKEN, RunDir, find_run, new_folder

_LINKED_BYTES = 1 << 20  # smaller files are copied: nothing is saved by sharing them


def runs_named(names: Sequence[str], runs: Path) -> list[Path]:
    """The folders of runs. names: folders, or names of some in `runs`. Raises: UserError."""
    found = []
    for name in names:
        root = find_run(name, runs)
        if root is None:
            raise UserError(f"take {name!r:.200}: there is no run of that name, here or in {runs}")
        found.append(root.absolute())
    return found


def takeable(
    recipe: Recipe, run: RunDir, stages: Sequence[str], origins: Sequence[Path]
) -> dict[str, Path]:
    """Stage -> the run to take it from: the first in which it is done and would be skipped.

    stages: each after its needs. A stage that this run has begun stays its own, and where a need is neither
    here nor taken, what is made from it is not taken either. Evaluations run (see above).
    """
    found: dict[str, Path] = {}
    rerun: set[str] = set()
    for stage in stages:
        if run.stage(stage).exists() or _evaluates(recipe, stage):
            if decide(recipe, run, stage, rerun).run:
                rerun.add(stage)
            continue
        # What a result was made from must be what is here, or is taken too.
        inputs = {need: _completion(run, found, need) for need in recipe.stages[stage].needs}
        origin = next((o for o in origins if _same(recipe, RunDir(o), stage, rerun, inputs)), None)
        if origin is None:
            rerun.add(stage)
        else:
            found[stage] = origin
    return found


def _same(
    recipe: Recipe, origin: RunDir, stage: str, rerun: set[str], inputs: Mapping[str, str | None]
) -> bool:
    if decide(recipe, origin, stage, rerun).run:
        return False
    manifest = origin.manifest(stage)
    return manifest is not None and manifest.inputs == inputs


def _completion(run: RunDir, found: Mapping[str, Path], stage: str) -> str | None:
    manifest = (RunDir(found[stage]) if stage in found else run).manifest(stage)
    return None if manifest is None else manifest.completion


def take(run: RunDir, found: Mapping[str, Path]) -> None:
    """Those stages' results, each from its run; large files are shared where the disk can.

    Raises: UserError where a stage is made anew while it is copied.
    """
    for stage, origin in found.items():
        half = run.root / f".{stage}.half"
        shutil.rmtree(half, ignore_errors=True)
        there = RunDir(origin).manifest(stage)
        with suppress(shutil.Error):  # a file went while it was copied
            shutil.copytree(RunDir(origin).stage(stage), half, copy_function=_link)
            if there is not None and there == RunDir(origin).manifest(stage):
                half.rename(run.stage(stage))
                continue
        shutil.rmtree(half, ignore_errors=True)
        raise _made_anew(origin, stage)


def answered(
    recipe: Recipe, run: RunDir, stages: Sequence[str], origins: Sequence[Path]
) -> dict[Path, list[Path]]:
    """Run -> the folders of models of which it has replies, where evaluations among `stages` will run. What each
    is a reply to is in its key, so one too many is no harm."""
    asking = [name for name in stages if _evaluates(recipe, name)]
    if not any(decide(recipe, run, name, set()).run for name in asking):
        return {}
    found = {o: {path.parents[1] for path in (o / EVALS).glob(f"*/*/{SAMPLES}")} for o in origins}
    return {origin: sorted(folders) for origin, folders in found.items() if folders}


def take_replies(run: RunDir, found: Mapping[Path, Sequence[Path]]) -> None:
    """Put other runs' replies where this run's evaluations look for them.

    Raises: UserError where some are moved while they are copied.
    """
    if not found:
        return
    with new_folder(run.root / TAKEN) as half:
        for number, (origin, folders) in enumerate(found.items()):
            for folder in folders:
                try:
                    shutil.copytree(folder, half / str(number) / folder.name, copy_function=_link)
                except shutil.Error:
                    raise _made_anew(origin, str(folder.relative_to(origin))) from None


def _made_anew(origin: Path, what: str) -> UserError:
    return UserError(f"take: run {origin.name} made {what} anew meanwhile; give the command again")


def _evaluates(recipe: Recipe, stage: str) -> bool:
    return registry.kind(recipe.stages[stage].kind).makes == ("results",)


def taken_lines(found: Mapping[str, Path], replies: Iterable[Path] = ()) -> list[str]:
    """A line a run that stages, or replies to benchmarks, are taken from."""
    of: dict[Path, list[str]] = {}
    for stage, origin in found.items():
        of.setdefault(origin, []).append(stage)
    for origin in replies:
        of.setdefault(origin, []).append("replies to benchmarks")
    return [f"from run {origin.name}: {', '.join(what)}" for origin, what in of.items()]


def _link(source: str, target: str) -> None:
    """Files of a finished stage are replaced and never written to."""
    if os.path.getsize(source) > _LINKED_BYTES:
        try:
            os.link(source, target)
            return
        except OSError:  # another disk
            pass
    shutil.copy2(source, target)
