"""What a merge stage will cost. Imports no torch."""

from collections.abc import Iterable

from rl.merge.config import MergeConfig
from workbench import registry
from workbench.content import Mark
from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def reads(config: MergeConfig) -> Iterable[Mark]:
    """What the evaluations of the sweep read."""
    found: Iterable[Mark] = registry.resolve(str(registry.kind("evals").reads))(
        config.evals_config()
    )
    return found


def plan_merge(config: MergeConfig, recipe: Recipe) -> StagePlan:
    """The sweep's evaluations."""
    if len(config.needs) != 2:
        raise UserError(
            f"a merge needs exactly two stages with models (alpha 0, then alpha 1); got "
            f"{', '.join(config.needs) or 'none'}"
        )
    ends = [0.0, 1.0] if config.endpoints else []
    alphas = sorted({*config.alphas, *ends})
    evals = config.evals_config().model_copy(update={"models": [f"alpha-{a:g}" for a in alphas]})
    measured = registry.resolve(registry.kind("evals").plan)(evals, recipe)
    line = f"{config.needs[0]} -> {config.needs[1]}, picked by {config.metric}"
    return StagePlan(
        lines=(line, *measured.lines),
        steps=len(alphas),
        tokens=measured.tokens,
        loads=measured.loads,
        disk_bytes=2**28 + measured.disk_bytes,
    )
