"""Order stages by their needs, and decide which of them are already done."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from workbench import registry
from workbench.content import ABSENT, Reads, places_read
from workbench.custom_code import is_own
from workbench.errors import UserError, unknown_name
from workbench.placement import digested
from workbench.provenance import digest
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

    Resources do not count: the same stage on other hardware is the same stage, and so it is in any
    number of processes whose state says nothing of their number. The order of `needs`
    does: the first one with a model is the parent, and a merge goes from the first to the second.

    What stands at its default does not count either, so that a release with a further key runs nothing
    again. One that changes a default raises the kind's version instead.
    """
    config = recipe.stages[stage]
    said = config.model_dump(mode="json", exclude=set(config.SAME_RESULT), exclude_defaults=True)
    own = digested(config, said)
    if config.layout_free:
        own["distributed"] = "any"
    facts = {"stage": own, "model": recipe.model.model_dump(), "seed": stage_seed(recipe, stage)}
    asked = [name for name in recipe.stages[stage].served if name in recipe.models]
    if asked:
        facts["models"] = {
            name: [model.url, model.served_name, model.decides()]
            for name in asked
            for model in [recipe.models[name]]
        }
    return digest(facts)


def declared_versions(recipe: Recipe, stage: str) -> dict[str, int]:
    """The versions that the stage's result depends on: of its kind, and of checkers that it runs."""
    config = recipe.stages[stage]
    kind = registry.kind(config.kind)
    found = {name: registry.kind(name).version for name in (config.kind, *kind.uses)}
    # Everything that reads data can run the checkers, through one filter; few recipes ask for it.
    if kind.checks or "passes_check" in config.model_dump_json():
        checks = registry.check_versions()
        found |= {f"check {name}": version for name, version in checks.items()}
    return found


def data_digests(recipe: Recipe, run: RunDir, stage: str) -> dict[str, str]:
    """What the stage reads on this machine outside the run -> digest of its content."""
    config = recipe.stages[stage]
    reads = registry.kind(config.kind).reads
    marks = [*places_read(config), *(registry.resolve(reads)(config) if reads else ())]
    if is_own(config.kind):
        marks.append((Reads("function"), config.kind))
    outside = ((mark, v) for mark, v in marks if mark.what != "stage" and not mark.on_hub(v))
    return dict(run.contents.of(mark, v) for mark, v in outside)


def decide(recipe: Recipe, run: RunDir, stage: str, rerun: set[str]) -> Decision:
    """Skip, continue or start a stage, given the stages (`rerun`) that will run before it."""
    manifest = run.manifest(stage)
    if manifest is None:
        return Decision(stage, True, "not run yet")
    changed = _change(recipe, run, manifest) or _data_change(recipe, run, manifest)
    if changed:
        return Decision(stage, True, changed)
    if any(need in rerun for need in recipe.stages[stage].needs):
        return Decision(stage, True, "what it needs runs again")
    if manifest.status == "done":
        return Decision(stage, False, "done and unchanged")
    return Decision(stage, True, "continues where it stopped", resume=True)


def _data_change(recipe: Recipe, run: RunDir, manifest: Manifest) -> str | None:
    """What a result was made from may be deleted afterwards; it is then not made again."""
    now = data_digests(recipe, run, manifest.stage)
    for place, digest_then in manifest.data.items():
        found = now.get(place, ABSENT)
        if found != digest_then and (found != ABSENT or manifest.status != "done"):
            return f"its data changed: {place}"
    added = [place for place in now if place not in manifest.data]
    return f"its data changed: {added[0]}" if added else None


def _change(recipe: Recipe, run: RunDir, manifest: Manifest) -> str | None:
    stage = manifest.stage
    if manifest.config_digest != config_digest(recipe, stage):
        return "its configuration changed"
    then, now = manifest.declared, declared_versions(recipe, stage)
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            return (
                f"version {now.get(name)} of {name} gives a different result from {then.get(name)}"
            )
    for need in recipe.stages[stage].needs:
        source = run.manifest(need)
        if source is None or source.status != "done":
            return None  # it will run first, and then count as rerun
        if manifest.inputs.get(need) != source.completion:
            return f"its input {need} changed"
    return None
