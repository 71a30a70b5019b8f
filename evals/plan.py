"""What an evals stage will cost. Imports no torch."""

from evals.config import EvalsConfig
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_evals(config: EvalsConfig, recipe: Recipe) -> StagePlan:
    """Samples and the most tokens they can take."""
    models = config.models or config.needs
    jobs = len(config.benchmarks) * len(config.thinking)
    samples = len(models) * jobs * config.limit * config.samples
    line = (
        f"{len(models)} models x {len(config.benchmarks)} benchmarks x {len(config.thinking)} "
        f"reasoning modes = {samples:,} samples of at most {config.max_tokens} tokens"
    )
    return StagePlan(lines=(line,), tokens=samples * config.max_tokens, disk_bytes=2**24)
