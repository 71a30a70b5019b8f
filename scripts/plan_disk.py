"""What a run's trainings put on the disk, where the sizes of their models are known."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.graph.plan import RunPlan
    from workbench.recipe import Recipe


def with_disk(recipe: "Recipe", plan: "RunPlan") -> "RunPlan":
    """The plan, its stages' disk_bytes with checkpoints and models of their true sizes."""
    stages = {
        name: replace(stage, disk_bytes=max(stage.disk_bytes, _written(recipe, name, stage.loads)))
        for name, stage in plan.stages.items()
    }
    return replace(plan, stages=stages)


def _written(recipe: "Recipe", name: str, loads: tuple[Any, ...]) -> int:
    """Bytes of a stage's trainings; 0 where it has none, or a model of unknown size."""
    from model.host import checkpoints
    from scripts.plan import shape_of
    from workbench.load import TrainingLoad

    trainings = [load for load in loads if isinstance(load, TrainingLoad)]
    shape = shape_of(recipe, name) if trainings else ""
    if isinstance(shape, str):
        return 0
    return round(sum(checkpoints(shape, load).on_disk for load in trainings))
