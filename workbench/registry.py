"""The stage kinds: one table from a recipe's `kind:` to its configuration, run and plan.

Packages declare their kinds as entry points of the group `anneal.kinds` (see pyproject.toml), so that
the workbench names no stage. The parts of a kind are named in strings, so that reading a recipe imports
configuration modules alone, which import no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from workbench.custom_code import is_own, load_custom
from workbench.errors import UserError, unknown_name
from workbench.installed import missing_line
from workbench.panels import MetricPanel

KINDS = "anneal.kinds"
"""Entry points: a mapping of kind name to `Kind`."""
CHECK_VERSIONS = "anneal.check_versions"
"""Entry points: a mapping of kind of check to the version of its checker."""
RECIPE_CHECKS = "anneal.recipe_checks"
"""Entry points: `(Recipe) -> None`, a UserError where the recipe cannot be meant."""


@dataclass(frozen=True)
class Kind:
    """Where a stage kind's parts live, as "package.module:name".

    config: a `StageConfig` subclass.  run: `(StageContext) -> None`.
    plan: `(config, Recipe) -> StagePlan`, importing no torch.
    inputs: `(config) -> lines for the plan, or None`, a UserError where a file or package that the stage
    reads is not there, a row is bad or an option is none; importing no torch. Asked before a run begins,
    of stages that will run.
    reads: `(config) -> iterable of (Reads, value)`, what the stage reads from outside the run beside
    the fields marked with `Reads` (workbench.content); importing no torch.
    version: raised when the same recipe would give another result; a stage made at another version
    runs again (CONTRIBUTING.md says when).
    checks: whether checkers decide its result, so that their versions count.
    engine: whether it generates, which needs vLLM.
    uses: kinds whose versions count too.
    takes, makes: what it reads and writes, of data, tokenizer, checkpoint, adapter, results (that it reads
    data is seen in its configuration too).
    on_card: whether its own process computes a model, so that a card is of use to it.
    expand: `(name, its mapping in the recipe) -> (mapping, {name: mapping of a further stage})`: a kind that
    is made of other stages. Asked again of a recipe that was expanded, it must give the same ones.
    """

    config: str
    run: str
    plan: str
    about: str
    version: int
    inputs: str | None = None
    reads: str | None = None
    checks: bool = False
    engine: bool = False
    uses: tuple[str, ...] = ()
    takes: tuple[str, ...] = ("checkpoint",)
    makes: tuple[str, ...] = ("checkpoint",)
    on_card: bool = True
    expand: str | None = None
    result: str | None = None
    """The `StageResult` of workbench.results that it leaves and the report reads; a class without torch.
    None: what it leaves is kept as it is."""
    questions: str | None = None
    """"package.module" that names the benchmarks it evaluates and gives their questions as texts, for data
    stages to keep them out: `names()`, `must_exist(name)`, `is_here(name, data)` and `questions_of(name,
    data)` -> (id, texts) of each."""
    measures: bool = False
    """It leaves `differences` in its outputs: the report says so where they are missing."""
    panels: tuple[MetricPanel, ...] = ()
    """Pictures of its metrics in the report. Values of its own it writes as PointsPanel."""


@cache
def kinds() -> dict[str, Kind]:
    """Every installed kind by its name. Raises: UserError where two packages declare one name."""
    found: dict[str, Kind] = {}
    for point in sorted(entry_points(group=KINDS), key=lambda point: point.name):
        for name, declared in point.load().items():
            if found.setdefault(name, declared) != declared:
                raise UserError(
                    f"stage kind {name!r} is declared twice, the second time by {point.value}; "
                    "uninstall one of the packages"
                )
    if not found:
        raise UserError(missing_line("Anneal is not installed in it"))
    return found


def check_versions() -> dict[str, int]:
    """Kind of check -> the version of its checker."""
    points = entry_points(group=CHECK_VERSIONS)
    return {name: version for point in points for name, version in point.load().items()}


def recipe_checks() -> list[Callable[..., None]]:
    """What every recipe must pass before anything of it is planned."""
    return [point.load() for point in entry_points(group=RECIPE_CHECKS)]


def kind(name: str) -> Kind:
    """The kind of this name, or of a user's own: FILE.py:NAME or package.module:NAME of a `Kind`.

    Raises: UserError naming the nearest one.
    """
    if is_own(name):
        return _custom_kind(name)
    known = kinds()
    if name not in known:
        raise unknown_name("stage kind", name, known)
    return known[name]


def _custom_kind(path: str) -> Kind:
    """A kind of the user's own, whose parts may be named `:NAME`: of the same file."""
    found = load_custom(path, what="kind")
    if not isinstance(found, Kind):
        raise UserError(
            f"kind {path!r} is {type(found).__name__} {found!r:.60}; it must be a workbench.registry.Kind"
        )
    place = path.rpartition(":")[0]
    here = {
        part: f"{place}{target}"
        for part in ("config", "run", "plan", "inputs", "reads", "result")
        if (target := getattr(found, part)) is not None and target.startswith(":")
    }
    made = replace(found, **here)  # type: ignore[arg-type]
    config = resolve(made.config)
    if "kind" not in getattr(config, "model_fields", {}):
        raise UserError(f"kind {path!r}: {made.config} is not a workbench.recipe.StageConfig")
    return made


def resolve(target: str) -> Any:
    """Import "package.module:name" or "FILE.py:name" and return the named object."""
    module, _, attribute = target.partition(":")
    if module.endswith(".py"):
        return load_custom(target, what="part of a kind")
    return getattr(import_module(module), attribute)


def resolve_module(name: str) -> Any:
    """Import "package.module"."""
    return import_module(name)
