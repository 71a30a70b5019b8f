"""A search's stages: what the recipe says of it, written out. Imports no torch."""

from typing import Any

from evals.ablation.expand import measured, trained
from pretrain.compress.target import planned_shape
from pretrain.search.config import SearchConfig
from workbench.errors import UserError
from workbench.recipe import ONE_CORE, Recipe
from workbench.stage import StagePlan

Body = dict[str, Any]


def cut(name: str, label: str) -> str:
    """Name of the stage that prunes a candidate."""
    return f"{name}-{label}"


def expand(name: str, body: Body) -> tuple[Body, dict[str, Body]]:
    """The stage, needing its parts, and the parts. Raises: UserError where the section is wrong."""
    config = SearchConfig.read(body, where=f"stages.{name}")
    models = [trained(name, label, seed) for label in config.labels for seed in config.seeds]
    names = [*models, *(cut(name, label) for label in config.labels), measured(name)]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UserError(
            f"stages.{name}: two parts of the search would be called {twice[0]!r}; give its candidates "
            "names that differ by more than a number of a seed, and none of them `evals`"
        )
    needs = [need for need in config.needs if need not in names]
    parts: dict[str, Body] = {}
    for label in config.labels:
        student = needs
        if (sizes := _sizes(config, label)) is not None:
            parts[cut(name, label)] = {
                **ONE_CORE, **config.prune, **sizes, "kind": "prune", "needs": needs,
            }  # fmt: skip
            student = [cut(name, label), *needs]
        differs = config.candidates[label].distill if config.candidates else {}
        for seed in config.seeds:
            parts[trained(name, label, seed)] = {
                **ONE_CORE, **config.distill, **differs, "kind": "distill",
                "needs": student, "teacher": config.teacher, "seed": seed,
            }  # fmt: skip
    parts[measured(name)] = {
        **config.evals, "kind": "evals", "needs": [config.teacher, *models],
        "benchmarks": config.benchmarks,
    }  # fmt: skip
    # Parts come first: a plan takes the first candidate's sizes for those of the model that is picked.
    return {**body, "needs": [*parts, *needs]}, parts


def _sizes(config: SearchConfig, label: str) -> Body | None:
    """What the candidate's pruning is told; None where it is not pruned."""
    if config.fit is not None:
        return {"fit": {**config.fit.model_dump(mode="json"), "rank": int(label)}}
    target = config.candidates[label].target
    return None if target is None else {"target": target.model_dump(mode="json")}


def plan_search(config: SearchConfig, recipe: Recipe) -> StagePlan:
    """The choice; its parts plan themselves."""
    how, before = config.throughput, planned_shape(recipe, config.needs)
    if how and before and before.max_position_embeddings < how.prompt_tokens + how.new_tokens:
        raise UserError(
            f"throughput: {how.prompt_tokens:,} + {how.new_tokens:,} tokens are more than the model takes "
            f"({before.max_position_embeddings:,}); give fewer, or throughput: null"
        )
    line = (
        f"{len(config.labels)} candidates ({', '.join(config.labels)}) x {len(config.seeds)} seeds, taught "
        f"by {config.teacher}; the fastest within {100 * config.within:.1f} points of the most accurate"
    )
    return StagePlan(lines=(line,), disk_bytes=2**20)
