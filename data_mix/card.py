"""What every data stage leaves beside its shards: the sums in its manifest, and a data card.

The card is README.md in the form of the Hugging Face hub: `datasets.load_dataset(FOLDER)` reads its head and
opens the shards, and the folder can be pushed as it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_mix.shard_columns import Columns
from data_mix.shards import ShardFacts, read_shard, says, shard_files, total, write_durably
from workbench.rundir import json_text
from workbench.stage import StageContext

_LARGEST = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6))
# Columns whose values are counted in the card, where a stage has them.
_COUNTED = ("language", "license", "domain", "source_kind", "model", "task")
_MOST_VALUES = 20
# What a stage read, by the keys of its section in the recipe.
_READ = ("input", "inputs", "against", "seeds", "models")


def finish(
    context: StageContext, facts: Sequence[ShardFacts], columns: Columns, *, steps: Sequence[str]
) -> None:
    """Write the card, and note the sums in the manifest under `data`."""
    sums = total(facts)
    sums.check()
    found = {
        **{"rows_in": sums.rows_in, "kept": sums.kept, "rows_out": sums.rows_out},
        **{"removed": sums.removed, "failed": sums.failed, "characters_in": sums.characters_in},
        **{"sizes": sums.sizes, "counts": sums.counts, "bytes": sums.bytes, "shards": len(facts)},
        **{"columns": columns, "funnel": funnel(sums, steps)},
        "seconds": {k: round(v, 2) for k, v in sums.seconds.items()},
    }
    write_durably(context.stage_dir / "README.md", card_of(context, sums, columns))
    context.note(data=found)


def funnel(sums: ShardFacts, steps: Sequence[str]) -> list[dict[str, Any]]:
    """Step by step: {step, rows, removed, failed, characters}. Rows are those that came through."""
    rows, out = sums.rows_in, []
    for step in steps:
        removed = _of_step(sums.removed, step)
        failed = _of_step(sums.failed, step)
        rows -= sum(removed.values()) + sum(failed.values())
        line = {"step": step, "rows": rows, "removed": removed, "failed": failed}
        out.append({**line, "characters": sums.sizes.get(step, 0)})
    assert rows == sums.kept, f"{rows} rows came through, {sums.kept} were kept"
    return out


def _of_step(reasons: dict[str, int], step: str) -> dict[str, int]:
    split = ([*key.split(": ", 1), ""] for key in reasons)
    return {
        reason: number
        for (name, reason, *_), number in zip(split, reasons.values(), strict=True)
        if name == step
    }


def card_of(context: StageContext, sums: ShardFacts, columns: Columns) -> str:
    """The text of README.md."""
    seen = _look(context.stage_dir, columns)
    size = next((name for name, most in _LARGEST if sums.rows_out < most), "n>1M")
    lines = [
        *("---", "configs:", "- config_name: default", "  data_files: shards/*.parquet"),
        *(
            "size_categories:",
            f"- {size}",
            "---",
            "",
            f"# {context.recipe.name}: {context.name}",
            "",
        ),
        f"Made by stage `{context.name}` (kind `{context.config.kind}`) of recipe "
        f"`{context.recipe.name}`, seed {context.seed}.",
        *("", "| | |", "| --- | --- |", f"| rows read | {sums.rows_in:,} |"),
        f"| rows written | {sums.rows_out:,} |",
        *(f"| removed, {reason} | {n:,} |" for reason, n in sorted(sums.removed.items())),
        *(f"| without a decision, {reason} | {n:,} |" for reason, n in sorted(sums.failed.items())),
        *(f"| {what} | {n:,} |" for what, n in sorted(sums.counts.items())),
        f"| characters a row | {seen['lengths']} |",
        f"| rows that repeat another one exactly | {seen['duplicates']:,} |",
        *_sources(context),
        *("", "## Columns", "", "| column | type |", "| --- | --- |"),
        *(f"| {name} | {kind} |" for name, kind in columns.items()),
    ]
    for column, values in seen["values"].items():
        lines += ["", f"## By {column}", "", "| | rows |", "| --- | --- |"]
        lines += [f"| {value} | {n:,} |" for value, n in values.most_common(_MOST_VALUES)]
    return "\n".join(lines) + "\n"


def _sources(context: StageContext) -> list[str]:
    """What it was made from, as the recipe says it: in a running stage names have become this machine's folders."""
    said = context.recipe.stages[context.name].model_dump(mode="json", exclude_defaults=True)
    told = [f"- {key}: `{json_text(said[key])}`" for key in _READ if said.get(key)]
    return ["", "## Sources", "", *told] if told else []


def _host(row: dict[str, Any]) -> str:
    try:
        return urlsplit(str(row["url"])).hostname or "none"
    except ValueError:  # brackets that hold no address
        return "none"


def _look(stage: Path, columns: Columns) -> dict[str, Any]:
    """Lengths, exact repetitions and values of the columns that are counted, in one pass."""
    lengths: list[int] = []
    values = {name: Counter[str]() for name in _COUNTED if name in columns}
    hosts = values.setdefault("host", Counter()) if "url" in columns else None
    digests: Counter[int] = Counter()
    for row in _rows(stage):
        text = says(row)
        lengths.append(len(text))
        digests[hash(text)] += 1
        for name, counter in values.items():
            counter[_host(row) if counter is hosts else str(row.get(name))] += 1
    lengths.sort()
    named = {"least": 0.0, "median": 0.5, "most": 1.0}
    found = (
        {k: lengths[min(int(q * len(lengths)), len(lengths) - 1)] for k, q in named.items()}
        if lengths
        else {}
    )
    return {
        "lengths": ", ".join(f"{name} {n:,}" for name, n in found.items()) or "none",
        "duplicates": sum(n - 1 for n in digests.values()),
        "values": values,
    }


def _rows(stage: Path) -> Iterator[dict[str, Any]]:
    for file in shard_files(stage):
        yield from read_shard(file)
