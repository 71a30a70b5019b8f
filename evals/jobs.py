"""Which results a sweep is to make: benchmarks x reasoning modes and budgets. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from budget.told import told
from engine.protocol import Sampling
from evals.benchmark import Benchmark
from evals.config import EvalsConfig, OneBenchmark
from evals.models import Model
from evals.registry import benchmark
from evals.sources import Loading
from evals.tasks.environments import of_environment
from evals.tasks.judged import no_judge
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Job:
    """One results.json: a benchmark at one budget. budget None: reasoning on; 0: off."""

    benchmark: Benchmark
    budget: int | None
    limit: int | None
    sampling: Sampling
    told: str | None = None
    """The instruction by which its prompts tell the budget; None: the budget, if any, is enforced."""

    @property
    def folder(self) -> str:
        """Its folder's name."""
        name = self.benchmark.name
        return name if self.budget is None else f"{name}@{self.budget}"

    @property
    def size(self) -> int | None:
        """Most questions (of each category, where it has any); None: all that there are."""
        return self.limit or self.benchmark.drawn

    @property
    def thinking(self) -> bool:
        """Whether its prompts open a trace."""
        return self.budget != 0


def jobs_of(config: EvalsConfig, *, seed: int) -> list[Job]:
    """Every job once, modes first. Raises: UserError on an unknown benchmark or a budget below 0."""
    for name in config.by_benchmark:
        _named(config, name)
    jobs: dict[str, Job] = {}
    asked: dict[str, str] = {}
    for name in config.benchmarks:
        folder = _named(config, name).name
        if asked.setdefault(folder, name) != name:
            raise UserError(
                f"benchmarks {asked[folder]!r} and {name!r} would share the name {folder!r}; rename one"
            )
    for mode in [*config.thinking, *config.budgets]:
        for name in config.benchmarks:
            job = _job(config, name, mode, seed)
            jobs.setdefault(job.folder, job)
    return list(jobs.values())


def _named(config: EvalsConfig, name: str) -> Benchmark:
    """The benchmark of this name: the recipe's own environments first."""
    tasks = config.environments.get(name)
    return benchmark(name) if tasks is None else of_environment(name, tasks)


def _job(config: EvalsConfig, name: str, mode: str | int, seed: int) -> Job:
    found = _named(config, name)
    protocol = found.protocol
    if found.judged and config.judge is None:
        raise no_judge(found.name)
    own = config.by_benchmark.get(name, OneBenchmark())
    if config.temperature is not None or own.temperature is not None:
        found = replace(found, temperature=None)
    off = mode in ("without", 0) or (mode == "protocol" and not protocol.thinking)
    budget = 0 if off else (mode if isinstance(mode, int) else None)
    if found.harness is not None:  # plain text, with no template that could open a trace
        budget = None
    if budget is not None and budget < 0:
        raise UserError(f"budget {budget}: give a number of tokens, 0 (reasoning off) or none")
    if config.told is not None and budget != 0:
        found = _telling(found, budget, config.told)

    chosen = {"limit": None, **vars(protocol), **_given(config), **_given(own)}
    sampling = Sampling(
        max_tokens=chosen["max_tokens"],
        n=chosen["samples"],
        temperature=chosen["temperature"],
        top_p=chosen["top_p"],
        seed=seed,
        thinking_budget=(budget or None) if config.told is None else None,
        thinking_grace=config.thinking_grace,
        logprobs=False,
    )
    return Job(found, budget, chosen["limit"], sampling, config.told if budget else None)


def _telling(found: Benchmark, budget: int | None, instruction: str) -> Benchmark:
    """The benchmark under another name, its questions with the budget told (None: as they are), so that a
    curve of told budgets is apart from one of enforced ones."""
    if found.harness is not None or found.world is not None:
        raise UserError(
            f"benchmark {found.name!r}: budgets are told in single questions (told), not in "
            f"{'episodes' if found.harness is None else 'tasks of lm-eval'}; leave it out of this stage"
        )

    def load(loading: Loading) -> list[Conversation]:
        asked = found.load(loading)
        return asked if budget is None else [told(one, budget, instruction) for one in asked]

    return replace(found, name=f"{found.name}-told", load=load)


def asked_of(model: Model, job: Job) -> Job:
    """The job as this model is asked it: with its own sampling, where the recipe gives it one."""
    if model.how is None:
        return job
    own = model.how.sampling.model_dump(exclude_none=True)
    names = {field.name for field in fields(Sampling)}
    sampling = replace(job.sampling, **{k: v for k, v in own.items() if k in names})
    benchmark = job.benchmark
    if "temperature" in own:
        benchmark = replace(benchmark, temperature=None)
    return replace(job, benchmark=benchmark, sampling=sampling)


def extended(job: Job, result: Mapping[str, Any]) -> Job:
    """The job with at least the questions and samples of a result of the same settings."""
    there = result["sampling"]["limit"]
    limit = None if job.limit is None or there is None else max(job.limit, there)
    n = max(job.sampling.n, int(result["num_samples"]))
    return replace(job, limit=limit, sampling=replace(job.sampling, n=n))


def _given(section: EvalsConfig | OneBenchmark) -> dict[str, Any]:
    """What a section says over a benchmark's protocol."""
    said = {key: getattr(section, key) for key in OneBenchmark.model_fields}
    return {key: value for key, value in said.items() if value is not None}


def parse_budgets(text: str) -> tuple[list[str], list[int]]:
    """Reasoning modes and budgets of a command line's `64,256,none`.

    >>> parse_budgets("none,0,64")
    (['with'], [0, 64])
    """
    modes: list[str] = []
    budgets: list[int] = []
    for part in _parts(text):
        if part == "none":
            modes.append("with")
        elif part.isdecimal():
            budgets.append(int(part))
        else:
            raise UserError(f"budget {part!r}: write tokens, or none; for example 0,64,256,none")
    if not modes and not budgets:
        raise UserError("--budgets is empty; write tokens, or none; for example 0,64,256,none")
    return modes, budgets


def _parts(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
