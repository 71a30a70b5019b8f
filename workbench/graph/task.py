"""One stage, run in its own process: manifest, log file, and the outcome told to the driver."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from workbench import registry
from workbench.content import Reads, pinned
from workbench.disk import is_full, no_space
from workbench.errors import StopRequested, UserError, one_line
from workbench.fork import begin
from workbench.graph.dag import FRESH, Decision, config_digest, data_digests, declared_versions
from workbench.hub import newest_commit
from workbench.provenance import digest, git_state, hardware, versions
from workbench.recipe import Recipe, StageConfig, build
from workbench.rundir import Manifest, RunDir, utc_now
from workbench.stage import StageContext, stage_seed
from workbench.stuck import answering


@dataclass(frozen=True)
class Outcome:
    """How a stage ended; `message` is one line."""

    stage: str
    status: Literal["done", "stopped", "user_error", "failed"]
    message: str = ""


def run_stage(
    resolved: dict[str, Any], root: str, decision: Decision, own_process: bool
) -> Outcome:
    """Run one stage and record it. Never raises for what the stage did: the outcome says it."""
    recipe, run = build(resolved), RunDir(Path(root))
    if (unseen := run.unseen()) is not None:
        return Outcome(decision.stage, "user_error", unseen)
    if run.stop_file.exists():  # it waited for a free CPU when the stop came
        return Outcome(decision.stage, "stopped", "before it began")
    try:
        with run.stage_claimed(decision.stage):
            return _run_claimed(recipe, run, decision, own_process)
    except UserError as error:
        return Outcome(decision.stage, "user_error", str(error))
    except OSError as error:  # of the run directory itself: the manifest, the log file
        if not is_full(error):
            return Outcome(decision.stage, "failed", one_line(error))
        return Outcome(decision.stage, "user_error", str(no_space(run.root)))


def _run_claimed(recipe: Recipe, run: RunDir, decision: Decision, own_process: bool) -> Outcome:
    manifest, config = _open_manifest(recipe, run, decision)
    context = StageContext(
        name=decision.stage,
        config=config,
        recipe=recipe,
        run=run,
        inputs={need: run.stage(need) for need in recipe.stages[decision.stage].needs},
        outputs=dict(manifest.outputs),
        fresh=decision.reason == FRESH,
    )
    started = time.monotonic()
    before_s = manifest.wall_s
    folder = run.stage(decision.stage)
    with _output_to(folder / "log.txt", own_process), answering(folder, "stage"):
        outcome = _attempt(context, manifest.kind)
        with suppress(OSError):  # a full disk, which the outcome says already
            context.close()
            sys.stdout.flush()
            sys.stderr.flush()
    manifest.wall_s = round(before_s + time.monotonic() - started, 2)
    manifest.outputs = context.outputs
    _close_manifest(run, manifest, outcome)
    if outcome.status == "done":
        keep = config.keep_checkpoints > 0
        run.tidy(
            decision.stage, keep_states=keep
        )  # after the manifest: a kill in between must not lose the state
    return outcome


def _attempt(context: StageContext, kind: str) -> Outcome:
    try:
        forked = begin(context.recipe, context.run, context.name)
        if forked is not None:
            context.note(forked_from=forked)
        registry.resolve(registry.kind(kind).run)(context)
    except StopRequested as stop:
        return Outcome(context.name, "stopped", str(stop))
    except UserError as error:
        return Outcome(context.name, "user_error", str(error))
    except Exception as error:  # noqa: BLE001 - whatever it was, the manifest must say it
        with suppress(OSError):
            traceback.print_exc()
        if is_full(error):
            return Outcome(context.name, "user_error", str(no_space(context.run.root)))
        return Outcome(context.name, "failed", one_line(error))
    return Outcome(context.name, "done")


def _open_manifest(recipe: Recipe, run: RunDir, decision: Decision) -> tuple[Manifest, StageConfig]:
    """The manifest of an attempt that begins, and its configuration with the hub's commits in it."""
    stage = decision.stage
    older = run.manifest(stage) if decision.resume else None
    if not decision.resume:
        run.set_aside(stage)
    needs = recipe.stages[stage].needs
    sources = {need: run.manifest(need) for need in needs}
    manifest = Manifest(
        stage=stage,
        kind=recipe.stages[stage].kind,
        status="running",
        inputs={need: (m.completion or "") if m else "" for need, m in sources.items()},
        config_digest=config_digest(recipe, stage),
        declared=declared_versions(recipe, stage),
        seed=stage_seed(recipe, stage),
        git=git_state(),
        versions=versions(),
        hardware=hardware(),
        started_at=older.started_at if older else utc_now(),
        wall_s=older.wall_s if older else 0.0,
        attempts=(older.attempts if older else 0) + 1,
        outputs=older.outputs if older else {},
        data=data_digests(recipe, run, stage),
        revisions=older.revisions if older else {},
    )
    run.contents.save()
    config = pinned(recipe.stages[stage], partial(_commit, manifest.revisions))
    run.write_manifest(manifest)
    return manifest, cast(StageConfig, config)


def _commit(known: dict[str, str], mark: Reads, name: str) -> str | None:
    """The commit of a name on the hub: the one read by earlier attempts, else the newest."""
    kind: Literal["model", "dataset"] = "dataset" if mark.what == "dataset" else "model"
    key = f"{kind} {name}"
    if key not in known and (found := newest_commit(kind, name)) is not None:
        known[key] = found
    return known.get(key)


def _close_manifest(run: RunDir, manifest: Manifest, outcome: Outcome) -> None:
    if outcome.status == "done":
        manifest.status = "done"
        manifest.completion = digest([manifest.config_digest, manifest.inputs, time.time_ns()])
    elif outcome.status != "stopped":
        manifest.status, manifest.error = "failed", outcome.message
    run.write_manifest(manifest)


@contextmanager
def _output_to(path: Path, own_process: bool) -> Iterator[None]:
    """Send this process's output to the stage's log file: libraries print a great deal.

    In a Ray worker the file descriptors are moved, so that compiled code is covered too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = (sys.stdout, sys.stderr)
    with path.open("a", buffering=1, encoding="utf-8") as log:
        fds = [os.dup(1), os.dup(2)] if own_process else []
        if own_process:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            yield
        finally:
            sys.stdout, sys.stderr = saved
            for target, fd in zip((1, 2), fds, strict=False):
                os.dup2(fd, target)
                os.close(fd)
