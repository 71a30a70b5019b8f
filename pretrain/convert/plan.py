"""What a conversion will cost. Imports no torch."""

from pretrain.convert.config import ConvertConfig, GgufSource
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_convert(config: ConvertConfig, recipe: Recipe) -> StagePlan:
    """Where the model comes from and how it is written."""
    source = config.source
    name = source.path or (source.package if isinstance(source, GgufSource) else "")
    return StagePlan(
        lines=(f"{source.type} {name} -> a plain checkpoint in {config.dtype}",),
        disk_bytes=2**30,
    )
