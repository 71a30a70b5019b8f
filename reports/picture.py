"""Pictures for a README: the page's own charts on one sheet, as SVG, PNG or what Pillow writes."""

import re
from io import BytesIO
from pathlib import Path

from reports.budgets import must_have_budgets
from reports.charts import accuracy_panels
from reports.differences import gain_table, questions
from reports.page import TEMPLATES
from reports.read import read_run
from reports.svg import Panel, draw, ramp, text_of
from workbench.errors import UserError

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")
_CELL, _GAP, _HEAD, _LINE = (330, 200), 22, 44, 26  # pixels of a page
_ZOOM = 1.8
_STYLE = (
    ".chart text, text { font-family: 'Liberation Sans', Arial, 'DejaVu Sans', sans-serif; }"
    "text.title { font-size: 14px; font-weight: bold; fill: var(--ink); }"
    "text.note { font-size: 11.5px; fill: var(--muted); } text.key { font-size: 13px; fill: var(--ink); }"
)


def save_accuracy(run: Path, path: Path) -> None:
    """Accuracy by stage, a panel a benchmark, of the run in folder `run`.

    Raises: UserError where no model of the run was evaluated, or there is no font.
    """
    facts = read_run(run)
    table, off = gain_table(facts).current(), gain_table(facts, budget=0).current()
    if not table.rows:
        raise UserError(f"no model of run {facts.name!r} was evaluated; there is nothing to draw")
    panels = accuracy_panels(table, off)
    for place, (_, cells) in enumerate(table.rows):
        note = f"{panels[place].note}, n = {questions(cells.values())}"
        panels[place] = Panel(panels[place].title, panels[place].chart, note.removeprefix(", "))
    legend = {model: f"--m{place}" for place, model in enumerate(table.models)}
    if off.rows:
        legend["reasoning off"] = "--off"
    _save(path, panels, min(len(panels), 4), legend, len(table.models))


def save_budgets(run: Path, path: Path) -> None:
    """The budget curves of the run in folder `run`: a line of pictures a benchmark.

    Raises: UserError where no model of the run was evaluated under a budget, or there is no font.
    """
    facts = read_run(run)
    rows = must_have_budgets(facts)
    panels = [
        Panel(f"{row.benchmark}: {panel.title.lower()}", panel.chart,
              f"n = {row.n}" if panel is row.panels[0] else "")
        for row in rows for panel in row.panels[:3]
    ]  # fmt: skip
    names = [m for m in facts.models if any(m in row.curves for row in rows)]
    legend = {model: f"--m{facts.models.index(model)}" for model in names}
    _save(path, panels, 3, legend, len(facts.models))


def save_panels(
    path: Path, panels: list[Panel], legend: dict[str, str], *, columns: int = 2
) -> None:
    """Charts of one's own, so many side by side. legend: name -> CSS variable of its colour.

    Raises: UserError where there is no font.
    """
    _save(path, panels, min(len(panels), columns), legend, 1)


def _save(
    path: Path, panels: list[Panel], columns: int, legend: dict[str, str], models: int
) -> None:
    sheet = _sheet(panels, columns, legend, models)
    if path.suffix.lower() == ".svg":
        path.write_text(sheet, encoding="utf-8")
        return
    png = _png(sheet)
    if path.suffix.lower() == ".png":
        path.write_bytes(png)
        return
    from PIL import Image  # noqa: PLC0415 - only for the other formats

    Image.open(BytesIO(png)).convert("RGB").save(path)


def _png(sheet: str) -> bytes:
    """The sheet as PNG. Raises: UserError where this machine has no font to write its words with."""
    from resvg_py import svg_to_bytes  # noqa: PLC0415 - only where a picture is asked for

    probe = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">{}</svg>'
    empty, word = (
        svg_to_bytes(svg_string=probe.format(text))
        for text in (
            "",
            '<text y="15" font-family="Liberation Sans, Arial, DejaVu Sans, sans-serif">n</text>',
        )
    )
    if empty == word:
        raise UserError(
            "this machine has no font to write a picture's words with; install one (Debian: apt-get "
            "install fonts-dejavu-core), or save the picture as .svg"
        )
    return bytes(svg_to_bytes(svg_string=sheet, zoom=_ZOOM))


def _sheet(panels: list[Panel], columns: int, legend: dict[str, str], models: int) -> str:
    """Titles, charts and a legend on one SVG, with the colours and line styles of a light page."""
    wide, high = _CELL
    # A note stands beside its title where all have room for it, else under it.
    beside = all(_width(p.title, 14) + _width(p.note, 12) < wide for p in panels)
    head = _LINE if beside else 2 * _LINE - 4
    keys = [_width(name, 13) + 40 for name in legend]
    width = max(columns * (wide + _GAP) + _GAP, round(sum(keys)) + 2 * _GAP)
    height = _HEAD + -(-len(panels) // columns) * (high + head + _GAP)
    parts, left = [], (width - sum(keys)) / 2
    for (name, colour), own in zip(legend.items(), keys, strict=True):
        parts += [
            f'<circle cx="{left + 8:.1f}" cy="18" r="5.5" style="fill:var({colour})"/>',
            _text("key", left + 20, 22.5, name),
        ]
        left += own
    for place, panel in enumerate(panels):
        x = _GAP + place % columns * (wide + _GAP)
        y = _HEAD + place // columns * (high + head + _GAP)
        parts += [
            _text("title", x, y + 14, panel.title),
            _text("note", x + wide if beside else x, y + head - 12, panel.note, end=beside),
            str(draw(panel.chart, wide, high)).replace("<svg ", f'<svg x="{x}" y="{y + head}" ', 1),
        ]
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"(--[\w-]+): (#\w+)", css.partition("@media")[0]))
    colours |= {f"--m{place}": colour for place, colour in enumerate(ramp(models))}
    rules = "".join(line for line in css.splitlines() if line.startswith(".chart"))
    sheet = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{rules}{_STYLE}</style>'
        f'<rect width="{width}" height="{height}" fill="var(--card)"/>{"".join(parts)}</svg>'
    )
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], sheet)


def _width(text: str, size: float) -> float:
    """Pixels of a text, a little more than it takes: no font is measured."""
    return 0.62 * size * len(text)


def _text(kind: str, x: float, y: float, text: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{text_of(text)}</text>'
