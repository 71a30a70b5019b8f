"""One recipe under several seeds: what each claim is worth with seeds and questions in its interval."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from reports.budgets import budget_differences
from reports.charts import with_intervals
from reports.differences import (
    StageDifference,
    difference,
    gain_table,
    label,
    stage_differences,
)
from reports.page import percent, points, write_page
from reports.read import RunFacts
from reports.svg import Chart, Panel, Series
from workbench.files import write_whole
from workbench.records import Difference, Estimate, ModelDifference, to_json
from workbench.rundir import json_text
from workbench.statistics import asks_of, mean_of_differences, mean_over_seeds, two_way_interval

Verdict = Literal["shown", "not shown", "reversed", "one seed"]
_CLEAR = 0.05  # of p_holm, beside an interval of 95%
_LEAST_SEEDS = 3  # the spread of two is a guess from one number
TABLE, RECORDS, PAGE = "replication.md", "replication.json", "report.html"


@dataclass(frozen=True)
class Claim:
    """A gain that the recipe is to show. model: the stage that it speaks of. against: what before it.

    by_seed: the difference that each seed's run found. difference: their mean; its interval has the
    spread between seeds and the error of the questions in it. own_seeds: over so many seeds of its own is
    each run's difference, as a search's or an ablation's is; p_holm: its p, adjusted for its table.
    """

    model: str
    what: str
    against: str
    by_seed: dict[int, Difference]
    difference: Estimate
    share: bool = True
    own_seeds: int = 0
    p_holm: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """shown or reversed where the interval over _LEAST_SEEDS or more is clear of 0."""
        seeds = max(len(self.by_seed), self.own_seeds)
        if seeds < 2:
            return "one seed"
        if (
            seeds < _LEAST_SEEDS
            or not self.difference.clear_of_zero
            or (self.own_seeds and not self.p_holm < _CLEAR)
        ):
            return "not shown"
        return "shown" if self.difference.value > 0 else "reversed"

    @property
    def spread(self) -> float:
        """Standard deviation of the seeds' differences."""
        values = [found.difference.value for found in self.by_seed.values()]
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def shown(self, value: float) -> str:
        """A difference in points, or in the measure's own unit."""
        return points(value) if self.share else f"{value:+.3f}"

    @property
    def spread_shown(self) -> str:
        """The spread in the unit of the differences; a dash for one seed."""
        return "–" if math.isnan(self.spread) else self.shown(self.spread).lstrip("+")

    @property
    def interval(self) -> str:
        """The 95% interval in words."""
        low, high = self.difference.ci95
        return "no interval" if math.isnan(low) else f"{self.shown(low)} to {self.shown(high)}"

    @property
    def levels(self) -> tuple[float, float]:
        """Before and after, means over seeds."""
        sides = [(d.before.value, d.after.value) for d in self.by_seed.values()]
        return statistics.fmean(b for b, _ in sides), statistics.fmean(a for _, a in sides)

    @property
    def seeds(self) -> str:
        """What each seed found."""
        return ", ".join(self.shown(d.difference.value) for d in self.by_seed.values())


@dataclass(frozen=True)
class Replication:
    """The runs of one recipe. missing: seeds without an evaluation or a measure, and why."""

    root: Path
    name: str
    runs: dict[int, RunFacts]
    claims: list[Claim] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)

    @property
    def commits(self) -> list[str]:
        """Of the code that made the runs, in the order of first use."""
        manifests = [s.manifest for facts in self.runs.values() for s in facts.stages.values()]
        made = [str(m.git.get("commit") or "")[:7] for m in manifests if m is not None]
        return [commit for commit in dict.fromkeys(made) if commit]


def replication(
    root: Path, runs: Mapping[int, RunFacts], missing: Mapping[int, str]
) -> Replication:
    """Every claim of the runs, in the recipe's order; the last model against the first comes first, models of one
    parent against each other last."""
    first = next(iter(runs.values()))
    pairs = [(m, p) for m in first.evaluated if (p := first.parent(m))]
    whole = (first.evaluated[-1], first.evaluated[0]) if len(first.evaluated) > 1 else None
    if whole is not None and whole not in pairs:
        pairs.insert(0, whole)
    found = [claim for after, before in pairs for claim in _of_models(runs, before, after)]
    # Of two models made from one, such as with a teacher and without, the mean alone: there are many pairs.
    siblings = [
        (after, before)
        for before, after in combinations(first.evaluated, 2)
        if (parent := first.parent(after)) is not None and parent == first.parent(before)
    ]
    found += [claim for after, before in siblings for claim in _of_models(runs, before, after)[:1]]
    found += _own(runs)
    return Replication(
        root, str(first.recipe.get("name", root.name)), dict(runs), found, dict(missing)
    )


def _of_models(runs: Mapping[int, RunFacts], before: str, after: str) -> list[Claim]:
    """One claim a benchmark, and their mean where there is more than one."""
    found = []
    for benchmark in next(iter(runs.values())).benchmarks:
        sides = {
            seed: (old, new)
            for seed, facts in runs.items()
            if (old := facts.current(before, benchmark))
            and (new := facts.current(after, benchmark))
        }
        by_seed = {seed: difference(old, new) for seed, (old, new) in sides.items()}
        if by_seed:
            whole = _by_question(sides) or mean_over_seeds([d.difference for d in by_seed.values()])
            found.append(Claim(after, label(benchmark), before, by_seed, whole))
    if len(found) < 2:
        return found
    return [_mean(found), *found]


def _by_question(sides: Mapping[int, tuple[Any, Any]]) -> Estimate | None:
    """Over all questions of all seeds, clustered by seed and by what is asked; None for one seed."""
    if len(sides) < 2:
        return None
    values, seeds, asked = list[float](), list[str](), list[str]()
    for seed, (old, new) in sides.items():
        shared = [key for key in old.questions if key in new.questions]
        values += [new.questions[key].value - old.questions[key].value for key in shared]
        seeds += [str(seed)] * len(shared)
        asked += asks_of(shared, old.questions, new.questions)
    return two_way_interval(values, seeds, asked)[0] if values else None


def _mean(claims: list[Claim]) -> Claim:
    """The unweighted mean over benchmarks, of the seeds that have all of them."""
    seeds = [s for s in claims[0].by_seed if all(s in claim.by_seed for claim in claims)]
    by_seed = {
        seed: mean_of_differences([claim.by_seed[seed] for claim in claims]) for seed in seeds
    }
    whole = mean_over_seeds([found.difference for found in by_seed.values()])
    return Claim(claims[0].model, "mean accuracy", claims[0].against, by_seed, whole)


def _own(runs: Mapping[int, RunFacts]) -> list[Claim]:
    """What stages measure themselves, by stage and measure, and what thinking budgets bought."""
    found: dict[tuple[str, str, str], dict[int, StageDifference]] = {}
    for seed, facts in runs.items():
        budgets = [StageDifference(model, d) for model, d in budget_differences(facts)]
        for one in [*stage_differences(facts), *budgets]:
            found.setdefault((one.stage, one.measure, one.found.against), {})[seed] = one
    claims = []
    for (stage, what, against), ones in found.items():
        by_seed = {seed: one.found for seed, one in ones.items()}
        seed, first = next(iter(ones.items()))
        whole = mean_over_seeds([d.difference for d in by_seed.values()])
        own, p = 0, math.nan
        if isinstance(first.found, ModelDifference):
            own, p = len(runs[seed].stages[stage].config.get("seeds", ())), first.found.p_holm
        claims.append(Claim(stage, what, against, by_seed, whole, first.found.share, own, p))
    return claims


def write_replication(found: Replication) -> list[str]:
    """Write the page, the Markdown table and the records; lines that say where they are."""
    write_whole(found.root / TABLE, markdown(found))
    write_whole(found.root / RECORDS, json_text(record(found), indent=1) + "\n")
    page = found.root / PAGE
    context = {"found": found, "panels": _panels(found)}
    write_page(page, "seeds.html", context, "style.css")
    return [f"table: {found.root / TABLE}", f"report: {page}"]


def record(found: Replication) -> dict[str, Any]:
    """What the runs found, for other tools and for docs/replication. levels: before and after, means of seeds."""
    return {
        "version": 1, "recipe": found.name, "commits": found.commits,
        "missing": {str(seed): why for seed, why in found.missing.items()},
        "claims": [
            {
                "model": c.model, "what": c.what, "against": c.against, "verdict": c.verdict,
                "share": c.share, "own_seeds": c.own_seeds, "p_holm": c.p_holm, "n": max(d.n for d in c.by_seed.values()), "levels": c.levels,
                "spread": c.spread, "difference": to_json(c.difference),
                "by_seed": {str(seed): to_json(d.difference) for seed, d in c.by_seed.items()},
            }
            for c in found.claims
        ],
    }  # fmt: skip


def markdown(found: Replication) -> str:
    """The table of claims, for docs."""
    head = "| claim | each seed | mean | 95% interval | spread | verdict |\n| --- | --- | --- | --- | --- | --- |"
    lines = [
        f"| {c.model} over {c.against or 'its start'}: {c.what} | {c.seeds} | {c.shown(c.difference.value)} | "
        f"{c.interval} | {c.spread_shown} | {c.verdict} |"
        for c in found.claims
    ]
    lost = [f"\nSeed {seed} is missing: {why}" for seed, why in found.missing.items()]
    return "\n".join([head, *lines, *lost]) + "\n"


def _panels(found: Replication) -> list[Panel]:
    """Accuracy by model and benchmark: each seed as a thin line, their mean with its interval."""
    tables = {seed: gain_table(facts).current() for seed, facts in found.runs.items()}
    models = next(iter(tables.values())).models
    rows = {seed: dict(table.rows) for seed, table in tables.items()}
    panels = []
    for name in next(iter(rows.values()), {}):
        cells = {seed: row[name] for seed, row in rows.items() if name in row}
        lines = [
            Series(
                f"seed {seed}",
                [(float(i), row[m].accuracy.value) for i, m in enumerate(models) if m in row],
                "--off",
                style="dashed",
            )
            for seed, row in cells.items()
        ]
        means = {
            float(i): mean_over_seeds([row[m].accuracy for row in cells.values() if m in row])
            for i, m in enumerate(models)
            if any(m in row for row in cells.values())
        }
        names = [m if m in (models[0], models[-1]) else "" for m in models]
        chart = Chart(
            f"Accuracy by stage: {name}", [*lines, with_intervals("mean", means, "--accent")],
            x_names=names, y_range=(0.0, 1.0), y_format=percent,
        )  # fmt: skip
        panels.append(Panel(name, chart, f"{len(cells)} seeds", (236, 168), (160, 132)))
    return panels


def verdict_lines(found: Replication) -> list[str]:
    """What the terminal shows."""
    counts = {
        word: sum(c.verdict == word for c in found.claims)
        for word in ("shown", "not shown", "reversed")
    }
    lines = [
        f"{c.model}: {c.what} {c.shown(c.difference.value)} ({c.interval}; seeds {c.seeds}): {c.verdict}"
        for c in found.claims
    ]
    total = ", ".join(f"{n} {word}" for word, n in counts.items())
    return [*lines, f"{len(found.runs)} seeds, {len(found.claims)} claims: {total}"]
