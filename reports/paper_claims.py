"""The paper's claims beside what replications found: docs/replication.md and its picture.

What the paper says, which runs answer it and what stands beside is in docs/replication/rows.yaml; what the runs
found is in docs/replication/RECIPE.json, which `scripts/paper.py` copies from each replication.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reports.charts import with_intervals
from reports.page import percent, points
from reports.picture import save_panels
from reports.svg import Chart, Panel, Series
from workbench.errors import UserError
from workbench.files import write_whole
from workbench.records import Estimate, first_problem_of, from_json
from workbench.rundir import json_text, read_json

ROWS = "rows.yaml"
MISSING = "not in the record"
_COLUMNS = ("paper", "its claim", "its figure", "the miniature", "seeds", "verdict", "command")
_LEGEND = {"a seed": "--off", "mean, 95% interval": "--accent"}
Records = Mapping[str, Mapping[str, Any]]
"""Recipe -> what its replication found (reports.seeds.record)."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shows(_Part):
    """A claim of a replication that answers the paper's. direction: the paper's; "": it states none. words: what
    stands before the figure. levels: whether before and after are given too."""

    model: str
    what: str
    against: str | None = None
    words: str = ""
    direction: Literal["up", "down", ""] = ""
    levels: bool = False

    @property
    def name(self) -> str:
        """What is measured, in words."""
        return self.words or self.what


class Row(_Part):
    """A claim of the paper. measured, seeds, verdict and command: where no replication's record answers it, what is
    known all the same."""

    paper: str
    claim: str
    figure: str
    recipe: str = ""
    shows: list[Shows] = []
    note: str = ""
    measured: str = ""
    seeds: str = ""
    verdict: str = ""
    command: str = ""


class Replicated(_Part):
    """How a recipe is replicated. take: the recipes whose finished stages it can have. seeds: "inside" where its
    searches and ablations have seeds of their own, so that it runs once."""

    take: list[str] = []
    seeds: Literal["outside", "inside"] = "outside"


class Paper(_Part):
    """All of rows.yaml: the page's words, the recipes in the order in which they run, and the rows."""

    head: str
    recipes: dict[str, Replicated]
    rows: list[Row]
    foot: str


def read_paper(folder: Path) -> Paper:
    """The rows in a folder. Raises: UserError where they are none."""
    path = folder / ROWS
    try:
        return Paper.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem_of(error)}") from None


def read_records(folder: Path, paper: Paper) -> dict[str, dict[str, Any]]:
    """The records of the recipes that have one."""
    paths = {name: folder / f"{name}.json" for name in paper.recipes}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def keep_record(found: Path, kept: Path) -> bool:
    """Copy a replication's record, a claim a line, so that a later one shows which claims it changed. False, and
    nothing is written, where it has fewer seeds than the one that is kept."""
    record = read_json(found)
    if kept.is_file() and _fewest(record) < _fewest(read_json(kept)):
        return False
    claims = [json_text(claim) for claim in record.pop("claims")]
    text = json_text(record)[:-1] + ', "claims": [\n' + ",\n".join(claims) + "\n]}\n"
    write_whole(kept, text)
    return True


def _fewest(record: Mapping[str, Any]) -> int:
    return min((len(claim["by_seed"]) for claim in record["claims"]), default=0)


def page(paper: Paper, records: Records) -> str:
    """docs/replication.md. A claim that a record does not have is said in its cell: hours of runs must not end
    for a name."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "| " + " | ".join("---" for _ in _COLUMNS) + " |"]
    lines += [f"| {' | '.join(_cells(row, paper, records))} |" for row in paper.rows]
    return "\n\n".join((paper.head.strip(), "\n".join(lines), paper.foot.strip())) + "\n"


def _cells(row: Row, paper: Paper, records: Records) -> tuple[str, ...]:
    head = (row.paper, row.claim, row.figure)
    record = records.get(row.recipe)
    if record is None or not row.shows:
        command = f"`{row.command}`" if row.command else ""
        return (*head, row.measured, row.seeds, row.verdict, command)
    found = [_claim(record, one) for one in row.shows]
    sentences = [_sentence(one, claim) for one, claim in zip(row.shows, found, strict=True)]
    made = "; ".join(sentences) + (f". {row.note}" if row.note else "")
    command = f"scripts/paper.py --only {row.recipe}"
    counted = [c["own_seeds"] or len(c["by_seed"]) for c in found if c is not None]
    seeds = f"{min(counted, default=0)} ({', '.join(record['commits'])})"
    return (*head, made, seeds, _verdict(row.shows, found), f"`{command}`")


def _claim(record: Mapping[str, Any], wanted: Shows) -> Mapping[str, Any] | None:
    """The claim that a row asks for; None: there is none. A search compares with the candidate that won, so "a of
    x over y" may stand there as "a of y over x"."""
    of_model = [c for c in record["claims"] if c["model"] == wanted.model]
    for claim in of_model:
        if claim["what"] == wanted.what and wanted.against in (None, claim["against"]):
            return dict(claim)
    measure, _, arm = wanted.what.rpartition(" of ")
    for claim in of_model:
        if (claim["what"], claim["against"]) == (f"{measure} of {wanted.against}", arm):
            return _turned(claim)
    return None


def _turned(claim: Mapping[str, Any]) -> dict[str, Any]:
    """The same difference from the other side."""

    def less(found: Mapping[str, Any]) -> dict[str, Any]:
        low, high = found["ci95"]
        ends = [None if end is None else -end for end in (high, low)]
        return {**found, "value": -found["value"], "ci95": ends}

    return {
        **claim, "difference": less(claim["difference"]), "levels": claim["levels"][::-1],
        "by_seed": {seed: less(found) for seed, found in claim["by_seed"].items()},
        "verdict": _of_direction("down", claim["verdict"]),
    }  # fmt: skip


def _sentence(shows: Shows, claim: Mapping[str, Any] | None) -> str:
    """`held-out reward +17.2 points (+3.8 to +30.6; seeds +22.7, +14.0, +15.0)`, in bold where its verdict is clear."""
    if claim is None:
        return f"{shows.name}: {MISSING}"
    share = claim["share"]
    write = points if share else "{:+.3f}".format
    found = from_json(Estimate, claim["difference"])
    value = f"{write(found.value)}{' points' if share else ''}"
    own = [write(from_json(Estimate, found).value) for found in claim["by_seed"].values()]
    known = found.low == found.low
    parts = [f"{write(found.low)} to {write(found.high)}"] if known else []
    parts += [f"seeds {', '.join(own)}"] if len(own) > 1 else []
    levels = ""
    if shows.levels:
        level = percent if share else "{:.2f}".format
        levels = " {} to {},".format(*(level(value) for value in claim["levels"]))
    bold = "**" if claim["verdict"] in ("shown", "reversed") else ""
    around = f" ({'; '.join(parts)})" if parts else ""
    return f"{shows.name}{levels} {bold}{value}{bold}{around}"


def _verdict(shows: list[Shows], found: list[Mapping[str, Any] | None]) -> str:
    """One word where all claims with a direction have the same, else one for each."""
    said = {
        one.name: _of_direction(one.direction, claim["verdict"]) if claim else MISSING
        for one, claim in zip(shows, found, strict=True)
        if one.direction
    }
    if len(set(said.values())) <= 1:
        return next(iter(said.values()), "no claim")
    return "; ".join(f"{name}: {word}" for name, word in said.items())


def _of_direction(direction: str, verdict: str) -> str:
    """A fall that the paper claims is shown where the interval is below 0."""
    turned = {"shown": "reversed", "reversed": "shown"}
    return turned.get(verdict, verdict) if direction == "down" else verdict


def save_picture(path: Path, paper: Paper, records: Records) -> bool:
    """A panel a claim with a direction: each seed's difference, their mean and its interval. False: there is none."""
    panels = [
        _panel(f"{row.paper}: {one.name}", one, claim)
        for row in paper.rows
        if row.recipe in records
        for one in row.shows
        if one.direction and (claim := _claim(records[row.recipe], one)) is not None
    ]
    if panels:
        save_panels(path, panels, _LEGEND, columns=3)
    return bool(panels)


def _panel(title: str, shows: Shows, claim: Mapping[str, Any]) -> Panel:
    seeds = {seed: from_json(Estimate, found) for seed, found in claim["by_seed"].items()}
    last = float(len(seeds))
    # A series a seed: a line between them would say that their order means something.
    dots = [
        with_intervals(f"seed {seed}", {float(place): found}, "--off")
        for place, (seed, found) in enumerate(seeds.items())
    ]
    chart = Chart(
        title,
        [
            Series("no difference", [(0.0, 0.0), (last, 0.0)], "--faint", style="dashed"),
            *dots,
            with_intervals("mean", {last: from_json(Estimate, claim["difference"])}, "--accent"),
        ],
        x_names=[*seeds, "mean"],
        y_format=points if claim["share"] else "{:+.2g}".format,
    )
    return Panel(title, chart, _of_direction(shows.direction, claim["verdict"]))
