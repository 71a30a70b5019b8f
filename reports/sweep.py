"""The pages of evaluations: a table of models and benchmarks, and a page of samples behind each cell.

Published figures stand beside results, and every departure from a benchmark's protocol is named.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.console import cost
from evals.registry import benchmark
from reports.page import write_page
from reports.read import Evaluation, RunFacts
from reports.samples import SampleView, sample_view
from workbench.errors import UserError
from workbench.records import Result, Sample, read_samples

INDEX = "evals/index.html"
_MOST_SAMPLES, _MOST_CHARACTERS = 400, 6000
# Filter -> label; a sample carries the classes that are true of it.
FILTERS = {
    "all": "all",
    "wrong": "wrong",
    "right": "right",
    "cut": "truncated",
    "ill": "ill-formed",
    "failed": "failed",
}


@dataclass(frozen=True)
class SweepRow:
    """One benchmark at one budget: results by model, the paper's figures by its models."""

    name: str
    about: str
    metric: str
    cells: dict[str, Evaluation]
    paper: dict[str, float]
    departed: dict[str, list[str]]
    """Model -> where its result was not made by the protocol."""

    @property
    def departures(self) -> list[str]:
        """Of all models; with a model's name where they differ."""
        lists = [*self.departed.values()]
        if all(found == lists[0] for found in lists):
            return lists[0]
        return [f"{m}: {', '.join(found)}" for m, found in self.departed.items() if found]


def sweep_rows(facts: RunFacts) -> list[SweepRow]:
    """A row for each benchmark and budget: benchmarks in the recipe's order, budgets by number after no
    limit, models in the report's order."""
    found: dict[tuple[str, int | None], dict[str, Evaluation]] = {}
    for model in facts.models:
        for (owner, name, budget), evaluation in facts.results.items():
            if owner == model:
                found.setdefault((name, budget), {})[model] = evaluation

    def place(key: tuple[str, int | None]) -> tuple[int, int]:
        return facts.benchmarks.index(key[0]), -1 if key[1] is None else key[1]

    return [_row(found[key]) for key in sorted(found, key=place)]


def _row(cells: dict[str, Evaluation]) -> SweepRow:
    first = next(iter(cells.values()))
    known = _benchmark(first.result.benchmark)
    # The paper's figure belongs beside its own mode: RULER is run with reasoning off, others with.
    own_mode = known is not None and (
        known.harness is not None or known.protocol.thinking == (first.result.budget is None)
    )
    return SweepRow(
        first.folder.name,
        known.about if known else "",
        first.result.headline,
        cells,
        dict(known.paper) if known is not None and own_mode else {},
        {m: departures(e.result, known) if known else [] for m, e in cells.items()},
    )


def notes(found: Evaluation) -> list[str]:
    """What a reader of the number must know."""
    result = found.result
    out = ["of an earlier checkpoint"] if found.stale else []
    out += [
        f"{n} {word}" for n, word in ((result.truncated, "cut"), (result.failed, "failed")) if n
    ]
    formed = result.well_formed_rate
    if formed is not None and (shown := round(100 * formed)) < 100:
        out.append(f"{shown}% well-formed")
    if result.cost:
        known = result.cost.get("sum") is not None
        out.append(f"cost {cost({'cost': result.cost})}" if known else "cost not known")
    return out


def asked(result: Result) -> str:
    """`n = 30 x 16`: questions, and samples a question where there are several."""
    return f"n = {result.n}" + (f" x {result.num_samples}" if result.num_samples > 1 else "")


def departures(result: Result, known: Benchmark) -> list[str]:
    """Where a result was not made by the benchmark's protocol, in words."""
    protocol, sampling = known.protocol, result.sampling
    out = []
    if sampling.get("limit"):
        out.append(f"the first {sampling['limit']:,} questions (of each category) only")
    if result.num_samples != protocol.samples:
        out.append(f"{result.num_samples} samples a question, not {protocol.samples}")
    for key, name in (("temperature", "temperature"), ("top_p", "top-p")):
        wanted = getattr(protocol, key)
        if key in sampling and sampling[key] != wanted:
            out.append(f"{name} {sampling[key]:g}, not {wanted:g}")
    if sampling.get("max_tokens", protocol.max_tokens) != protocol.max_tokens:
        out.append(f"at most {sampling['max_tokens']:,} tokens, not {protocol.max_tokens:,}")
    if result.judge:
        out.append(f"judged by {result.judge}")
    if known.harness is not None:
        return out
    if protocol.thinking != (result.budget != 0):
        out.append(f"reasoning {'off' if result.budget == 0 else 'on'}")
    elif result.budget:
        out.append(f"thinking budget {result.budget:,}")
    return out


def _benchmark(name: str) -> Benchmark | None:
    try:
        return benchmark(name)
    except UserError:  # a result of another version of the registry is shown all the same
        return None


def write_sweep_pages(facts: RunFacts) -> Path | None:
    """Write the table, and the samples beside each results.json; the table's place, None without any."""
    rows = sweep_rows(facts)
    if not rows:
        return None
    for row in rows:
        for model, found in row.cells.items():
            samples, counts = sample_views(found.folder)
            _write(
                found.folder / "index.html", "samples.html", row=row, model=model, cell=found,
                samples=samples, counts=counts, filters=FILTERS, most=_MOST_SAMPLES,
            )  # fmt: skip
    models = [m for m in facts.models if any(m in row.cells for row in rows)]
    paper = list(dict.fromkeys(model for row in rows for model in row.paper))
    index = facts.root / INDEX
    _write(index, "table.html", rows=rows, models=models, paper_models=paper, run=facts)
    return index


def _write(path: Path, template: str, **context: Any) -> None:
    context |= {"notes": notes, "asked": asked}
    write_page(path, template, context, "style.css", "sweep.css")


def sample_views(folder: Path) -> tuple[list[tuple[str, SampleView]], dict[str, int]]:
    """(classes, view) of the first samples in a folder, and how many of all samples each filter keeps."""
    views: list[tuple[str, SampleView]] = []
    counts = dict.fromkeys(FILTERS, 0)
    for sample in read_samples(folder, texts=True):
        classes = _classes(sample)
        for name in classes:
            counts[name] += 1
        if len(views) < _MOST_SAMPLES:
            views.append((" ".join(classes), sample_view(sample, _MOST_CHARACTERS)))
    return views, counts


def _classes(sample: Sample) -> list[str]:
    out = ["all"]
    if sample.finish_reason == "length":  # counted so in the table, with a verdict or without
        out.append("cut")
    if sample.value is None:
        return [*out, "failed"]
    out.append("right" if sample.value >= 1 else "wrong")
    return out if sample.well_formed else [*out, "ill"]
