"""What the page shows of stages that make data: the funnel, and rows that were kept and removed, side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_mix.results import FunnelAccount, FunnelStep
from data_mix.shards import read_shard, says
from reports.page import compact, percent, shortened
from reports.read import RunFacts, StageFacts
from workbench.errors import UserError
from workbench.rundir import read_json_lines

SIDE_BY_SIDE = 10
_SHOWN_CHARACTERS, _LOOKED_AT = 700, 2000


@dataclass(frozen=True)
class FunnelRow:
    """A step: rows that came through, their share of all, why others did not, and characters."""

    step: str
    rows: int
    share: str
    left_out: str
    characters: str


@dataclass(frozen=True)
class Shown:
    """A row: what it is called, what it says, and why it was removed ("" where it was kept)."""

    id: str
    text: str
    why: str = ""


@dataclass(frozen=True)
class DataView:
    """A stage that makes data."""

    name: str
    kind: str
    rows_in: int
    funnel: list[FunnelRow]
    counts: list[tuple[str, str]]
    pairs: list[tuple[Shown | None, Shown | None]]


def data_views(facts: RunFacts) -> list[DataView]:
    """Every stage of the run that left a funnel."""
    return [
        _view(stage, stage.result.data, facts.root / stage.name)
        for stage in facts.stages.values()
        if isinstance(stage.result.data, FunnelAccount)
    ]


def _view(stage: StageFacts, data: FunnelAccount, folder: Path) -> DataView:
    kept, removed = _kept(folder), _removed(folder)
    size = max(len(kept), len(removed))
    pairs = list(zip(_padded(kept, size), _padded(removed, size), strict=True))
    return DataView(
        stage.name,
        stage.kind,
        data.rows_in,
        [_row(step, data.rows_in) for step in data.funnel],
        [(what.replace("/", ": "), f"{n:,}") for what, n in sorted(data.counts.items())],
        pairs,
    )


def _padded(rows: list[Shown], size: int) -> list[Shown | None]:
    return [*rows, *[None] * (size - len(rows))]


def _row(step: FunnelStep, rows_in: int) -> FunnelRow:
    most_first = sorted(step.removed.items(), key=lambda found: -found[1])
    reasons = [f"{reason}: {n:,}" for reason, n in most_first]
    reasons += [f"no decision, {reason}: {n:,}" for reason, n in step.failed.items()]
    return FunnelRow(
        step.step,
        step.rows,
        percent(step.rows / rows_in) if rows_in else "–",
        "; ".join(reasons),
        compact(step.characters) if step.characters else "–",
    )


def _kept(folder: Path) -> list[Shown]:
    """A few rows, by the digests of their ids."""
    rows = islice(_rows(folder), _LOOKED_AT)
    few = nsmallest(SIDE_BY_SIDE, rows, key=lambda row: _digest(str(row.get("id"))))
    return [Shown(_name(row), shortened(says(row), _SHOWN_CHARACTERS)) for row in few]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted((folder / "shards").glob("*.parquet")):
        try:
            yield from read_shard(file)
        except (OSError, ValueError, pa.ArrowException, UserError):  # a run may be under way
            return


def _removed(folder: Path) -> list[Shown]:
    """A few rows of each reason in turn."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((folder / "removed").glob("*.jsonl")):
        for row in read_json_lines(file):
            by_reason.setdefault(f"{row.get('step')}: {row.get('reason')}", []).append(row)
    out: list[Shown] = []
    while by_reason and len(out) < SIDE_BY_SIDE:
        for reason in [*by_reason]:
            row = by_reason[reason].pop(0)
            text = shortened(str(row.get("text", "")), _SHOWN_CHARACTERS)
            out.append(Shown(str(row.get("id")), text, reason))
            if not by_reason[reason]:
                del by_reason[reason]
    return out[:SIDE_BY_SIDE]


def _name(row: dict[str, Any]) -> str:
    return str(row.get("url") or row.get("id"))


def _digest(identity: str) -> bytes:
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
