"""What a run is going to do and cost, from the recipe alone (imports no torch)."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from workbench import placement, registry
from workbench.errors import UserError
from workbench.fork import check_forks
from workbench.graph.dag import FRESH, Decision, decide
from workbench.recipe import Recipe
from workbench.rundir import RunDir
from workbench.stage import StagePlan
from workbench.trackers import must_be_installed


@dataclass(frozen=True)
class RunPlan:
    """The plan of each stage, in order."""

    stages: dict[str, StagePlan]
    decisions: dict[str, Decision]
    kinds: tuple[registry.Kind, ...] = ()
    """The kinds of the stages that will run."""

    @property
    def lines(self) -> list[str]:
        """The plan as text, a block a stage."""
        out = ["plan:"]
        for name, plan in self.stages.items():
            decision = self.decisions[name]
            verb = ("continue" if decision.resume else "run") if decision.run else "skip"
            out.append(f"  {name}: {verb} ({decision.reason})")
            out += [f"    {line}" for line in plan.lines]
        tokens = sum(p.tokens or 0 for n, p in self.stages.items() if self.decisions[n].run)
        disk = sum(p.disk_bytes for n, p in self.stages.items() if self.decisions[n].run)
        out.append(f"  in all: {tokens:,} tokens trained or generated, {disk / 2**20:,.0f} MB disk")
        return out


def plan_run(
    recipe: Recipe,
    run: RunDir,
    stages: list[str],
    *,
    fresh: Collection[str] = (),
    taken: Mapping[str, Path] = MappingProxyType({}),
) -> RunPlan:
    """Plan the stages in order. Raises: UserError for a mistake anywhere in the recipe.

    Stages that were not asked for are looked at too: a name that is wrong in the last one must not
    be found out after days of training. What lies on this machine (files, packages) is looked for
    where a stage is going to run. fresh: stages that run again whatever they have. taken: those that are
    going to be taken over, and from which run.
    """
    for check in registry.recipe_checks():
        check(recipe)
    must_be_installed(recipe.tracking)
    here = placement.local_nodes(recipe.cluster)
    seated = recipe if here is None else placement.settle(recipe, here)
    costs = {name: _stage_plan(seated, name) for name in recipe.stages}
    plans: dict[str, StagePlan] = {}
    decisions: dict[str, Decision] = {}
    for name in stages:
        rerun = {n for n, d in decisions.items() if d.run}
        decisions[name] = (
            Decision(name, False, f"to be taken over from run {taken[name].name}")
            if name in taken
            else decide(recipe, run, name, rerun)
        )
        if name in fresh and not decisions[name].run:
            decisions[name] = Decision(name, True, FRESH)
        plans[name] = costs[name]
    for name, origin in check_forks(
        recipe, run, [n for n, d in decisions.items() if d.run]
    ).items():
        whole = recipe.stages[name].fork
        how = "with its optimizer" if whole and whole.optimizer else "its weights alone"
        line = f"begins at {origin.describe()}, {how}"
        plans[name] = replace(plans[name], lines=(*plans[name].lines, line))
    kinds = {n: registry.kind(recipe.stages[n].kind) for n, d in decisions.items() if d.run}
    for name, kind in kinds.items():
        looked_at = _check_inputs(recipe, name, kind)
        plans[name] = replace(plans[name], lines=(*plans[name].lines, *looked_at))
        plans[name] = replace(plans[name], lines=(*plans[name].lines, *_seats(seated, name, here)))
    return RunPlan(plans, decisions, tuple(dict.fromkeys(kinds.values())))


def _seats(recipe: Recipe, name: str, nodes: Sequence[placement.Node] | None) -> Sequence[str]:
    """Who of the stage sits where on this machine; a recipe for a larger one can be planned here."""
    config = recipe.stages[name]
    if nodes is None:
        asked = any(seat.gpus is None for seat in placement.seats(config))
        return ("on: chosen when the cluster is joined",) if asked else placement.lines(config)
    try:
        placement.check_room(name, config, nodes)
    except UserError as error:
        return (*placement.lines(config), f"not on this machine: {error}")
    return placement.lines(config)


def _stage_plan(recipe: Recipe, name: str) -> StagePlan:
    plan: StagePlan = registry.resolve(registry.kind(recipe.stages[name].kind).plan)(
        recipe.stages[name], recipe
    )
    return plan


def _check_inputs(recipe: Recipe, name: str, kind: registry.Kind) -> Sequence[str]:
    if kind.inputs is None:
        return ()
    try:
        return registry.resolve(kind.inputs)(recipe.stages[name]) or ()
    except UserError as error:
        raise UserError(f"stage {name!r}: {error}") from None


def check_disk(plan: RunPlan, run: RunDir) -> None:
    """Raises: UserError where the disk has less room than the stages to run will write."""
    needed = sum(p.disk_bytes for n, p in plan.stages.items() if plan.decisions[n].run)
    place: Path = run.root if run.root.exists() else run.root.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"no disk space: {place} has {free / 2**30:,.1f} GB free, the run needs about "
            f"{needed / 2**30:,.1f} GB; free some or set runs_dir to another disk"
        )
