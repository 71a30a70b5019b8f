"""The stage kinds: one table from a recipe's `kind:` to its configuration, run and plan.

Packages declare their kinds as entry points of the group `anneal.kinds` (see pyproject.toml), so that
the workbench names no stage. The parts of a kind are named in strings, so that reading a recipe imports
configuration modules alone, which import no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from workbench.errors import UserError, unknown_name
from workbench.installed import missing_line

KINDS = "anneal.kinds"
"""Entry points: a mapping of kind name to `Kind`."""
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
    packages: what `run` imports late, beside what its module imports at once.
    """

    config: str
    run: str
    plan: str
    about: str
    inputs: str | None = None
    packages: tuple[str, ...] = ()


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


def recipe_checks() -> list[Callable[..., None]]:
    """What every recipe must pass before anything of it is planned."""
    return [point.load() for point in entry_points(group=RECIPE_CHECKS)]


def kind(name: str) -> Kind:
    """The kind of this name. Raises: UserError naming the nearest one."""
    known = kinds()
    if name not in known:
        raise unknown_name("stage kind", name, known)
    return known[name]


def resolve(target: str) -> Any:
    """Import "package.module:name" and return the named object."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
