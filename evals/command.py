"""The command behind scripts/sweep.py: recipe and options in, results, table and report out."""

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from evals.config import EvalsConfig
from evals.console import Teller, dated_lines, failure_lines, kept_lines, table
from evals.jobs import Job, jobs_of, parse_budgets
from evals.kept_results import must_not_replace
from evals.models import Model, resolve_models
from evals.registry import BENCHMARKS, FAMILIES
from evals.tasks.ruler import ruler
from workbench.errors import StopRequested, UserError
from workbench.recipe import Recipe, apply_override, build, load
from workbench.rundir import RunDir, utc_now
from workbench.stage import stage_seed


def benchmark_lines() -> list[str]:
    """Every benchmark: its name, what it is, where its data comes from, and whether that is here."""
    folder = Path(EvalsConfig.model_fields["data"].default)
    shown = [*BENCHMARKS.values(), ruler("ruler-4k")]
    width = max(len(found.name) for found in shown)
    lines = []
    for found in shown:
        needs = found.data.status(folder) + ("; needs a judge" if found.judged else "")
        lines.append(f"{found.name:{width}}  {found.about} [{found.data}] {needs}")
    return [*lines, *(" ".join(str(make.__doc__).split()) for make in FAMILIES.values())]


@dataclass
class SweepCommand:
    """One sweep, checked as far as it can be without a model."""

    recipe: Recipe
    run_dir: RunDir
    config: EvalsConfig
    models: list[Model]
    jobs: list[Job]
    seed: int
    fresh: bool = False
    _stopping: bool = False

    @classmethod
    def build(cls, args: argparse.Namespace) -> "SweepCommand":
        """Raises: UserError."""
        local = [o for o in args.overrides if o.startswith("evals.")]
        others = [o for o in args.overrides if o not in local]
        recipe = load(args.recipe, others) if args.recipe else _bare(args, others)
        run, _ = RunDir.of(recipe.runs_dir, args.run or recipe.name)
        run.check_owner(recipe.resolved())
        owners = {n: s for n, s in recipe.stages.items() if isinstance(s, EvalsConfig)}
        asked = set(_words(args.benchmarks, "benchmarks"))
        # Of several stages the one whose benchmarks are asked for, else the first.
        stage = max(owners, key=lambda n: len(asked & {*owners[n].benchmarks}), default=None)
        config = _config(recipe.stages[stage] if stage else None, args, local)
        seed = config.seed
        if seed is None:
            seed = stage_seed(recipe, stage) if stage is not None else recipe.seed
        words = _words(args.models, "models")
        models = resolve_models(words, run, list(recipe.stages), recipe.models)
        jobs = jobs_of(config, seed=seed)
        for own in owners.values():
            must_not_replace(own, config, models, jobs, run.root / "evals")
        fresh = bool(vars(args).get("fresh"))
        return cls(recipe, run, config, models, jobs, seed, fresh)

    def plan(self) -> list[str]:
        """What is going to be run."""
        lines = [
            f"{len(self.models)} models ({', '.join(m.name for m in self.models)}) "
            f"x {len(self.jobs)} results, seed {self.seed}"
        ]
        for job in self.jobs:
            s = job.sampling
            size = f"{job.size:,}" if job.size else "all"
            lines.append(
                f"  {job.folder}: {size} questions x {s.n}, temperature {s.temperature:g}, "
                f"top-p {s.top_p:g}, at most {s.max_tokens:,} tokens, data: {job.benchmark.data}"
            )
        return lines

    def ask_to_stop(self) -> None:
        """Stop soon, keeping what has ended."""
        self._stopping = True
        os.write(
            2, b"stopping as soon as an open request ends; the same once more ends it at once\n"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def catch_signals(self) -> None:
        """Ctrl-C and SIGTERM ask to stop. A second one ends the process: a server that hangs may keep a
        request open for `timeout_s`, and every sample that has ended is on the disk."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.ask_to_stop())

    def run(self, out: TextIO, report: Callable[[Path], Sequence[str]]) -> int:
        """Run it; returns the exit code. report: writes the run's pages, and says where they are.

        Raises: UserError where a served model does not answer.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.catch_signals()
        try:
            return self._run(out, report)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, out: TextIO, report: Callable[[Path], Sequence[str]]) -> int:
        # Imported after everything that can be the user's mistake: these take seconds.
        from evals.sweep import must_answer, sample_anew, sweep  # noqa: PLC0415
        from workbench import cluster  # noqa: PLC0415

        for model in self.models:
            if model.served:
                must_answer(model)
        teller = Teller(out)

        def watch(model: Model, progress: Any) -> bool:
            teller(model, progress)
            return self._stopping

        with self.run_dir.claimed():
            self.run_dir.adopt(self.recipe.resolved())
            local = self.recipe.cluster.backend == "local" or all(m.served for m in self.models)
            if not local:
                name = cluster.namespace("sweep", self.run_dir.root)
                print(cluster.connect(self.recipe.cluster, namespace=name), file=out)
                self.catch_signals()  # Ray puts a handler of its own in place, which kills
            root, began = self.run_dir.root / "evals", utc_now()
            if self.fresh:
                sample_anew(root, [model.name for model in self.models], self.jobs)
            try:
                results = sweep(self.models, self.config, out=root, seed=self.seed, watch=watch)
            except StopRequested:
                how = "the same command without --fresh" if self.fresh else "the same command"
                print(f"stopped; {how} continues", file=out)
                return 1
            finally:
                if not local:
                    cluster.disconnect()
            print(table(results), file=out)
            notes = [
                *kept_lines(results, self.jobs),
                *dated_lines(results, began),
                *failure_lines(results),
            ]
            print("\n".join([*notes, *report(self.run_dir.root)]), file=out)
        undecided = [r for found in results.values() for r in found if r["n"] == 0]
        return 1 if undecided else 0


def _bare(args: argparse.Namespace, overrides: Sequence[str]) -> Recipe:
    """The recipe of a sweep that has none."""
    raw: dict[str, Any] = {"name": args.run or "sweep", "stages": {"evals": {"kind": "evals"}}}
    raw["stages"]["evals"] |= {"benchmarks": _words(args.benchmarks, "benchmarks")}
    raw["stages"]["evals"]["thinking"] = ["protocol"]
    for override in overrides:
        apply_override(raw, override)
    return build(raw)


def _config(stage: Any, args: argparse.Namespace, overrides: list[str]) -> EvalsConfig:
    raw: dict[str, Any] = stage.model_dump(exclude_unset=True) if stage is not None else {}
    raw |= {"kind": "evals", "benchmarks": _words(args.benchmarks, "benchmarks")}
    raw.pop("models", None)
    raw.setdefault("thinking", ["protocol"])
    if args.budgets is not None:
        raw["thinking"], raw["budgets"] = parse_budgets(args.budgets)
    for key in ("samples", "limit"):
        if getattr(args, key) is not None:
            raw[key] = getattr(args, key)
            for own in raw.get("by_benchmark", {}).values():
                own.pop(key, None)
    for override in overrides:
        apply_override(raw, override.removeprefix("evals."))
    return EvalsConfig.read(raw, where="evals")


def _words(text: str, what: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError(f"--{what} is empty; give names separated by commas")
    return list(dict.fromkeys(words))
