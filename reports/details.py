"""What the report says about each stage: its numbers, its data, its warnings."""

import json
import time
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from data_mix.results import BlendAccount, DrawnPhase
from reports.charts import spark
from reports.page import compact, count_of
from reports.read import RunFacts, StageFacts
from reports.run_warnings import run_warnings
from sft.results import TrainingSet
from workbench.errors import some_of
from workbench.progress import describe, duration_words
from workbench.results import DataAccount
from workbench.tracking import LINE_KEYS, metric

# More of a step's samples than this at the token limit is worth a warning.
_CUT_SHARE = 0.2


@dataclass(frozen=True)
class Grid:
    """A small table: a head and rows of text."""

    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class MetricView:
    """A logged metric: its name, last value, meaning and a small chart where it has a line."""

    name: str
    last: str
    meaning: str
    svg: Markup | None


def trained_tokens(stage: StageFacts) -> int | None:
    """Tokens that the stage trained on or sampled, where it counted them."""
    counted = [line["tokens"] for line in stage.metrics if line.get("tokens")]
    return int(counted[-1]) if counted else stage.result.tokens


def stage_views(facts: RunFacts) -> list[dict[str, Any]]:
    """What the page shows of every stage of the recipe, in its order."""
    return [
        {
            "facts": stage,
            "summary": _summary(stage),
            "error": stage.manifest.error if stage.manifest else None,
            "rows": _facts(stage),
            "warnings": _warnings(facts, stage),
            "grids": _grids(stage.result.data),
            "metrics": [
                _metric(stage, name)
                for name in dict.fromkeys(k for line in stage.metrics for k in line)
                if name not in LINE_KEYS
            ],
            "config": json.dumps(
                {k: v for k, v in stage.config.items() if k not in ("kind", "needs")},
                indent=1,
                ensure_ascii=False,
            ),
        }
        for stage in facts.stages.values()
    ]


def _summary(stage: StageFacts) -> str:
    if stage.manifest is None:
        return ""
    if stage.status == "unfinished":
        line = describe(stage.name, stage.progress).removeprefix(f"{stage.name}: ")
        seen = stage.progress.get("updated_at")
        when = time.strftime("%H:%M UTC", time.gmtime(seen)) if isinstance(seen, float) else "–"
        return f"{line.partition('  ETA')[0]}; last sign of life {when}"
    tokens = trained_tokens(stage)
    parts = [duration_words(stage.manifest.wall_s)]
    return " · ".join(parts + ([f"{compact(tokens)} tokens"] if tokens else []))


def _facts(stage: StageFacts) -> list[tuple[str, str]]:
    manifest = stage.manifest
    if manifest is None:
        return []
    commit = str(manifest.git.get("commit", "unknown"))[:12]
    tokens = trained_tokens(stage)
    spent = stage.metrics[-1].get("wall_s") if stage.metrics else None
    rows = [
        ("needs", ", ".join(manifest.inputs) or "nothing"),
        ("started", manifest.started_at),
        (
            "wall time",
            f"{duration_words(manifest.wall_s)} over {count_of(manifest.attempts, 'attempt')}",
        ),
        ("tokens", f"{tokens:,}" if tokens else ""),
        ("tokens per second", f"{tokens / spent:,.0f} (mean)" if tokens and spent else ""),
        ("parameters", f"{size:,}" if (size := stage.result.parameters) is not None else ""),
        ("seed", str(manifest.seed)),
        ("configuration", manifest.config_digest),
        ("version", ", ".join(f"{name} {n}" for name, n in manifest.declared.items())),
        ("git", commit + (" with uncommitted changes" if manifest.git.get("dirty") else "")),
        ("result", manifest.completion or ""),
        ("hardware", hardware_line(manifest.hardware)),
        ("versions", ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
    ]
    return [(name, text) for name, text in rows if text]


def hardware_line(hardware: dict[str, Any]) -> str:
    """CPU, cores, memory, GPUs in a line."""
    if not hardware:
        return ""
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    memory = hardware.get("memory_gb")
    return f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {memory} GB, {gpus}"


def _warnings(facts: RunFacts, stage: StageFacts) -> list[str]:
    out = [*stage.result.warnings, *run_warnings(stage.metrics)]
    manifest = stage.manifest
    if manifest and manifest.git.get("dirty"):
        out.append("made from uncommitted changes: the commit alone does not give this result back")
    odd = sum("nonfinite" in line for line in stage.metrics)
    if odd:
        out.append(f"{count_of(odd, 'logged step')} with a value that is not a finite number")
    names = {k for line in stage.metrics for k in line if k not in LINE_KEYS}
    if unknown := sorted(name for name in names if metric(name) is None):
        out.append(f"metrics without a declaration: {', '.join(unknown)}")
    if stage.kind == "evals":
        out += _eval_warnings(facts)
    return out


def _eval_warnings(facts: RunFacts) -> list[str]:
    failed, asked, cut = 0, 0, []
    for found in facts.results.values():
        samples = found.result.n * found.result.num_samples
        failed += found.result.failed
        asked += samples
        if found.result.truncated > _CUT_SHARE * samples:
            cut.append(found.folder.relative_to(facts.root / "evals").as_posix())
    out = []
    if failed:
        out.append(f"{failed} of {asked:,} samples failed; they are left out, not counted as wrong")
    if cut:
        some = some_of(cut, 6)
        out.append(f"over {_CUT_SHARE:.0%} of replies hit the token limit in {some}")
    return out


def _metric(stage: StageFacts, name: str) -> MetricView:
    declared = metric(name)
    points = stage.series(name)
    unit = f" {declared.unit}" if declared and declared.unit not in ("", "share") else ""
    last = f"{points[-1][1]:.4g}{unit}" if points else "–"
    meaning = declared.meaning if declared else "not declared"
    return MetricView(name, last, meaning, spark(stage, name))


def _grids(data: DataAccount | None) -> list[Grid]:
    """Tables of the data accounting: that of a blend by phase, or that of a training set."""
    if isinstance(data, BlendAccount):
        return [_blend_grid(data.phases)]
    if not isinstance(data, TrainingSet):  # stages that make data have a section of their own
        return []
    rows = [[k, _number(v), _number(data.tokens.get(k))] for k, v in data.samples.items()]
    rows.append(["all", _number(sum(data.samples.values())), _number(sum(data.tokens.values()))])
    prepared = [
        [key.replace("_", " "), value if isinstance(value, str) else _number(value)]
        for key, value in _flat(data.model_dump(exclude={"samples", "tokens"}, exclude_unset=True))
    ]
    return [
        Grid("Data: what the training set holds", ["domain", "samples", "tokens"], rows),
        *([Grid("Data: how it was prepared", ["", ""], prepared)] if prepared else []),
    ]


def _blend_grid(phases: list[DrawnPhase]) -> Grid:
    names = dict.fromkeys(name for phase in phases for name in phase.sources)
    head = ["source"]
    for number, phase in enumerate(phases, start=1):
        head += [f"phase {number}, asked", f"drawn (of {compact(phase.tokens)})"]
    rows = []
    for name in names:
        row = [name]
        for phase in phases:
            source = phase.sources.get(name)
            row += [f"{source.weight:.1%}", f"{source.share:.1%}"] if source else ["0.0%", "0.0%"]
        rows.append(row)
    return Grid("Data: share of tokens by source", head, rows)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            out += _flat(inner, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", inner))
    return out


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
