"""What an evals stage will cost. Imports no torch."""

from collections.abc import Iterator

from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.tasks import custom_questions
from reward.plugin import is_plugin
from workbench.content import Mark, Reads
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def reads(config: EvalsConfig) -> Iterator[Mark]:
    """The folder of the user's data, where a benchmark may take a file of it, and the user's own
    questions."""
    found = [job.benchmark for job in jobs_of(config, seed=0)]
    if any(b.harness or b.data.files or b.data.only or b.data.hub_only for b in found):
        yield Reads("files"), config.data
    for name in config.benchmarks:
        if name.startswith(custom_questions.PREFIX):
            yield Reads("files"), name.removeprefix(custom_questions.PREFIX)
        elif is_plugin(name):
            yield Reads("function"), name


def plan_evals(config: EvalsConfig, recipe: Recipe) -> StagePlan:
    """Samples and the most tokens they can take."""
    models = config.models or config.needs
    jobs = jobs_of(config, seed=recipe.seed)
    limits = [job.size for job in jobs if job.size is not None]
    if len(limits) < len(jobs):
        line = f"{len(models)} models x {len(jobs)} results, every question"
        return StagePlan(lines=(line,), disk_bytes=2**26, loads=(config.engine.load(None),))
    per_model = [limit * job.sampling.n for limit, job in zip(limits, jobs, strict=True)]
    tokens = sum(n * job.sampling.max_tokens for n, job in zip(per_model, jobs, strict=True))
    line = (
        f"{len(models)} models x {len(jobs)} results = {len(models) * sum(per_model):,} samples "
        f"(of each category) of at most {max(job.sampling.max_tokens for job in jobs):,} tokens"
    )
    tokens *= len(models)
    load = config.engine.load(tokens)
    return StagePlan(lines=(line,), tokens=tokens, disk_bytes=2**24, loads=(load,))
