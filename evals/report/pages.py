"""Write the pages: evals/index.html, and one beside each results.json. They need no network."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from evals.report.table import SweepTable, read_table
from workbench.report import write as run_report
from workbench.report.clean import shortened
from workbench.report.templating import template_environment
from workbench.rundir import read_json_lines

_TEMPLATES = Path(__file__).parent / "templates"
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
class SampleView:
    """One sample on a page. classes: which filters keep it."""

    id: str
    number: int
    classes: str
    verdict: str
    prompt: list[tuple[str, str]]
    thinking: str
    answer: str
    reference: str
    why: str
    tokens: str


def write_pages(root: Path) -> Path:
    """Write every page of a run's evaluations; returns the table's."""
    folder = root / "evals"
    table = read_table(folder)
    for row in table.rows:
        for model, cell in row.cells.items():
            _write(folder / cell.page, _page(folder, table, row.name, model))
    index = folder / "index.html"
    # A run's report is written when the run, or the sweep, ends: after this.
    links = ["../report.html"] if (root / "recipe.json").is_file() else []
    _write(index, _render("table.html", {"table": table, "run": root.name, "links": links}))
    return index


def _page(folder: Path, table: SweepTable, name: str, model: str) -> str:
    row = next(r for r in table.rows if r.name == name)
    samples, counts = sample_views(folder / model / name / "samples.jsonl")
    return _render(
        "samples.html",
        {
            "row": row,
            "cell": row.cells[model],
            "model": model,
            "samples": samples,
            "counts": counts,
            "filters": FILTERS,
            "most": _MOST_SAMPLES,
        },
    )


def sample_views(path: Path) -> tuple[list[SampleView], dict[str, int]]:
    """The first samples of a file in its order, and how many of all samples each filter keeps."""
    views: list[SampleView] = []
    counts = dict.fromkeys(FILTERS, 0)
    for row in read_json_lines(path):
        classes = _classes(row)
        for name in classes:
            counts[name] += 1
        if len(views) < _MOST_SAMPLES:
            views.append(_view(row, classes))
    return views, counts


def _classes(row: dict[str, Any]) -> list[str]:
    value = row.get("value")
    out = ["all"]
    if row.get("finish_reason") == "length":  # counted so in the table, with a verdict or without
        out.append("cut")
    if value is None:
        return [*out, "failed"]
    out.append("right" if value >= 1 else "wrong")
    if not row.get("well_formed"):
        out.append("ill")
    return out


def _view(row: dict[str, Any], classes: list[str]) -> SampleView:
    value = row.get("value")
    verdict = "failed" if value is None else "right" if value >= 1 else "wrong"
    if value is not None and 0 < value < 1:
        verdict = f"{100 * value:.0f}% right"
    calls = row.get("tool_calls")
    answer = str(row.get("answer") or "")
    if calls:
        answer = f"{answer}\n{_text(calls)}".strip()
    tokens = row.get("tokens") or {}
    return SampleView(
        id=str(row.get("id")),
        number=int(row.get("sample", 0)),
        classes=" ".join(classes),
        verdict=verdict,
        prompt=[(str(m.get("role")), _short(m.get("content"))) for m in row.get("prompt") or []],
        thinking=_short(row.get("thinking")),
        answer=_short(answer),
        reference=_short(row.get("reference")),
        why=_short(_why(row)),
        tokens=f"{tokens.get('thinking', 0)} thinking, {tokens.get('answer', 0)} answer",
    )


def _why(row: dict[str, Any]) -> str:
    parts = [str(row.get("status", "")).replace("_", " ")]
    parts += [f"{key}: {_text(value)}" for key, value in (row.get("why") or {}).items()]
    if row.get("finish_reason") == "length":
        parts.append("cut at the token limit")
    return "\n".join(parts)


def _short(value: Any) -> str:
    return shortened(_text(value), _MOST_CHARACTERS)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _render(template: str, context: dict[str, Any]) -> str:
    style = Path(run_report.__file__).parent / "templates" / "style.css"
    own = (_TEMPLATES / "sweep.css").read_text(encoding="utf-8")
    context["style"] = Markup(style.read_text(encoding="utf-8") + own)
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return template_environment(
        _TEMPLATES, {"number": _number, "points": _points, "p_value": _p_value}
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}")
    # Lone surrogates, which a byte-level vocabulary can spell, have been made visible by `clean`.
    half.write_text(text, encoding="utf-8", errors="replace")
    half.replace(path)
