"""The picture of the run for a README: accuracy by stage, a panel a benchmark, as PNG."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import UserError
from workbench.report.compare import Cell, gain_table, questions
from workbench.report.palette import ramp
from workbench.report.read import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_INK, _MUTED, _FAINT, _GRID = "#1d2129", "#5d6675", "#b9bec8", "#e4e1dc"


def save_overview_png(run: Path, path: Path) -> None:
    """Write the accuracy picture of the run in folder `run`.

    Raises: UserError where no model of the run was evaluated.
    """
    # A second to import, and no screen: only where a PNG is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    facts = read_run(run)
    table = gain_table(facts).current()
    if not table.rows:
        raise UserError(f"no model of run {facts.name!r} was evaluated; there is nothing to draw")
    columns = min(len(table.rows), _COLUMNS)
    lines = -(-len(table.rows) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.35 * lines + 0.75), dpi=150)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07))
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    colours = dict(zip(table.models, ramp(len(table.models)), strict=True))
    off = dict(gain_table(facts, budget=0).current().rows)
    for axes, (name, cells) in zip(grid.flat, table.rows, strict=False):
        _panel(axes, name, cells, off.get(name, {}), colours)
    for axes in list(grid.flat)[len(table.rows) :]:
        axes.set_visible(False)
    handles = [
        figure.axes[0].plot([], [], "o", color=colour, label=model)[0]
        for model, colour in colours.items()
    ]
    if off:
        handles += figure.axes[0].plot([], [], "--", color=_MUTED, lw=1, label="reasoning off")
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        labelcolor=_INK,
        fontsize=10,
    )
    figure.savefig(path, facecolor="white")


def _panel(
    axes: "Axes", name: str, cells: dict[str, Cell], off: dict[str, Cell], colours: dict[str, str]
) -> None:
    """One benchmark: a dot with its 95% interval for each model."""
    places = {model: i for i, model in enumerate(colours)}
    shown = [m for m in colours if m in cells]
    values = [100 * cells[m].accuracy.value for m in shown]
    if off:
        dashed = [(places[m], 100 * cell.accuracy.value) for m, cell in off.items()]
        axes.plot(*zip(*dashed, strict=True), "--", color=_MUTED, lw=1)
    axes.plot([places[m] for m in shown], values, color=_FAINT, lw=1.6, zorder=2)
    for model, value in zip(shown, values, strict=True):
        estimate, colour = cells[model].accuracy, colours[model]
        bounds = [100 * estimate.low, 100 * estimate.high]
        axes.plot([places[model]] * 2, bounds, color=colour, lw=2, alpha=0.55, zorder=3)
        axes.plot(places[model], value, "o", color=colour, ms=6.5, mec="white", mew=1, zorder=4)
    axes.set_title(f"{name}", loc="left", fontsize=10.5, fontweight="bold", color=_INK)
    axes.set_title(
        f"{values[0]:.0f}% → {values[-1]:.0f}%, n = {questions(cells.values())}",
        loc="right",
        fontsize=8.5,
        color=_MUTED,
    )
    axes.set_xticks([])
    axes.set_xlim(-0.4, len(colours) - 0.6)
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 25, 50, 75, 100], ["0%", "", "50%", "", "100%"], color=_MUTED, fontsize=9)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
