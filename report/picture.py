"""Pictures for a README: the page's own charts on one sheet, as SVG, PNG or what Pillow writes."""

import re
from io import BytesIO
from pathlib import Path

from report.budgets import MEASURES, must_have_budgets
from report.charts import accuracy_panels
from report.differences import gain_table, questions
from report.page import TEMPLATES
from report.read import read_run
from report.svg import Panel, draw, ramp, text_of
from workbench.errors import UserError

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")
_CELL, _GAP, _HEAD, _TITLE = (330, 200), 22, 44, 26  # pixels of a page
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
    assert len(MEASURES) >= 3
    _save(path, panels, 3, legend, len(facts.models))


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
    (wide, high), lines = _CELL, -(-len(panels) // columns)
    width, height = columns * (wide + _GAP) + _GAP, _HEAD + lines * (high + _TITLE + _GAP)
    parts = _legend(legend, width)
    for place, panel in enumerate(panels):
        x = _GAP + place % columns * (wide + _GAP)
        y = _HEAD + place // columns * (high + _TITLE + _GAP)
        parts += [
            f'<text class="title" x="{x}" y="{y + 14}">{text_of(panel.title)}</text>',
            f'<text class="note" x="{x + wide}" y="{y + 14}" text-anchor="end">'
            f"{text_of(panel.note)}</text>",
            str(draw(panel.chart, wide, high)).replace(
                "<svg ", f'<svg x="{x}" y="{y + _TITLE}" ', 1
            ),
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


def _legend(names: dict[str, str], width: int) -> list[str]:
    """A dot and a name for each series, in the middle of the head."""
    widths = [7.9 * len(name) + 40 for name in names]
    x = (width - sum(widths)) / 2
    parts = []
    for (name, colour), own in zip(names.items(), widths, strict=True):
        parts += [
            f'<circle cx="{x + 8:.1f}" cy="18" r="5.5" style="fill:var({colour})"/>',
            f'<text class="key" x="{x + 20:.1f}" y="22.5">{text_of(name)}</text>',
        ]
        x += own
    return parts
