"""An ablation's stages: what the recipe says of it, written out. Imports no torch."""

from typing import Any

from evals.ablation.config import AblationConfig
from workbench.recipe import ONE_CORE, Recipe
from workbench.stage import StagePlan

Body = dict[str, Any]


def trained(name: str, arm: str, seed: int) -> str:
    """Name of the stage that trains an arm with a seed."""
    return f"{name}-{arm}-{seed}"


def measured(name: str) -> str:
    """Name of the stage that evaluates all arms."""
    return f"{name}-evals"


def expand(name: str, body: Body) -> tuple[Body, dict[str, Body]]:
    """The stage, needing its parts, and the parts. Raises: UserError where the section is wrong."""
    config = AblationConfig.read(body, where=f"stages.{name}")
    models = [trained(name, arm, seed) for arm in config.arms for seed in config.seeds]
    own = {*models, measured(name)}
    needs = [need for need in config.needs if need not in own]
    first = [config.base, *(need for need in needs if need != config.base)]
    parts: dict[str, Body] = {}
    for arm, section in config.arms.items():
        blend = config.blend_of(arm).model_dump(mode="json")
        for seed in config.seeds:
            parts[trained(name, arm, seed)] = {
                **ONE_CORE, **config.train, **section.train,
                **{"kind": "pretrain", "needs": first, "initial": "parent", "seed": seed, "blend": blend},
            }  # fmt: skip
    if config.benchmarks:
        parts[measured(name)] = {
            **config.evals, "kind": "evals", "needs": [config.base, *models],
            "benchmarks": config.benchmarks,
        }  # fmt: skip
    return {**body, "needs": [*needs, *parts]}, parts


def plan_ablation(config: AblationConfig, recipe: Recipe) -> StagePlan:
    """The table; its parts plan themselves."""
    line = (
        f"{len(config.arms)} arms x {len(config.seeds)} seeds from {config.base}, "
        f"{len(config.benchmarks)} benchmarks, {len(config.held_out)} held-out texts, one table"
    )
    return StagePlan(lines=(line,), disk_bytes=2**20)
