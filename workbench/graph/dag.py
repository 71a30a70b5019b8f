"""Order stages by their needs, and decide which of them are already done."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from workbench import registry
from workbench.errors import UserError, unknown_name
from workbench.provenance import code_digest, digest
from workbench.recipe import Recipe
from workbench.rundir import Manifest, RunDir
from workbench.stage import stage_seed

FRESH = "asked for with --fresh"
"""Reason of a stage that runs again whatever it has."""


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why.

    Example: Decision("sft1", run=True, reason="its configuration changed", resume=False)
    """

    stage: str
    run: bool
    reason: str
    resume: bool = False


def order(recipe: Recipe, wanted: Sequence[str]) -> list[str]:
    """The wanted stages and all they need, each after its needs. `all` means every stage.

    Raises: UserError on an unknown stage or a cycle.
    """
    graph = {name: stage.needs for name, stage in recipe.stages.items()}
    try:
        sequence = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise UserError(
            f"stages need each other in a circle: {' -> '.join(error.args[1])}"
        ) from None
    chosen: set[str] = set()
    waiting = list(recipe.stages) if "all" in wanted else list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in graph:
            raise unknown_name("stage", name, [*graph, "all"])
        if name not in chosen:
            chosen.add(name)
            waiting.extend(graph[name])
    # Recipe order among equals: the report and the display follow it.
    rank = {name: position for position, name in enumerate(recipe.stages)}
    depth: dict[str, int] = {}
    for name in sequence:
        depth[name] = 1 + max((depth[need] for need in graph[name]), default=0)
    return sorted(chosen, key=lambda name: (depth[name], rank[name]))


def config_digest(recipe: Recipe, stage: str) -> str:
    """Digest of the stage's resolved configuration with the shared facts it builds on.

    Resources do not count: the same stage on other hardware is the same stage.
    """
    own = recipe.stages[stage].model_dump(mode="json", exclude={"cpus", "gpus", "needs"})
    return digest(
        {"stage": own, "model": recipe.model.model_dump(), "seed": stage_seed(recipe, stage)}
    )


def stage_code_digest(recipe: Recipe, stage: str) -> str:
    """Digest of the code behind the stage's kind."""
    config = recipe.stages[stage]
    # Everything that reads data can run the checkers, through one filter; few recipes ask for it.
    checks = "passes_check" in config.model_dump_json()
    return code_digest(registry.kind(config.kind).run, checks=checks)


def decide(recipe: Recipe, run: RunDir, stage: str, rerun: set[str]) -> Decision:
    """Skip, continue or start a stage, given the stages (`rerun`) that will run before it."""
    manifest = run.manifest(stage)
    if manifest is None:
        return Decision(stage, True, "not run yet")
    changed = _change(recipe, run, manifest)
    if changed:
        return Decision(stage, True, changed)
    if any(need in rerun for need in recipe.stages[stage].needs):
        return Decision(stage, True, "what it needs runs again")
    if manifest.status == "done":
        return Decision(stage, False, "done and unchanged")
    return Decision(stage, True, "continues where it stopped", resume=True)


def _change(recipe: Recipe, run: RunDir, manifest: Manifest) -> str | None:
    stage = manifest.stage
    if manifest.config_digest != config_digest(recipe, stage):
        return "its configuration changed"
    if manifest.code_digest != stage_code_digest(recipe, stage):
        return "its code changed"
    for need in recipe.stages[stage].needs:
        source = run.manifest(need)
        if source is None or source.status != "done":
            return None  # it will run first, and then count as rerun
        if manifest.inputs.get(need) != source.completion:
            return f"its input {need} changed"
    return None
