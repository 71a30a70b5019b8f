"""Charts as SVG text: sizes in pixels of the page, colours from the page's CSS variables.

Hand-made rather than plotted: text stays text, dark mode works, and a phone gets its own drawing
instead of a shrunken one.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from reports.page import clean, compact

Point = tuple[float, float]
# One ramp from cold steel to glowing orange, a step for each model: its anchors on light and dark pages.
_LIGHT = ("#6b7686", "#3b6fd4", "#7a4fd0", "#c0338a", "#e0590b")
_DARK = ("#9aa5b5", "#6ea3ff", "#a98bff", "#f06db5", "#ff9147")
_MAX_POINTS = 400  # a longer line is averaged in buckets: nobody sees more


@dataclass(frozen=True)
class Series:
    """One line. colour: a CSS variable, for example "--m0". errors: (low, high) of each point.

    style: line (drawn plain), noisy (the raw values faint, their running mean bold), points (line
    with a dot at each point), dashed (thin, for a second reading of the same thing).
    """

    label: str
    points: list[Point]
    colour: str
    errors: list[Point] = field(default_factory=list)
    style: Literal["line", "noisy", "points", "dashed"] = "line"
    dot_colours: list[str] = field(default_factory=list)
    """A colour for each dot, where they differ from the line's."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows, whatever its size.

    x_names: names of the places 0, 1, 2, ... where x is not a number. regions: (name, start, end)
    in x, with a line at each inner edge. y_range: None fits the data.
    """

    title: str
    series: list[Series]
    x_label: str = ""
    x_names: list[str] = field(default_factory=list)
    y_range: Point | None = None
    y_format: Callable[[float], str] = lambda value: f"{value:g}"
    x_format: Callable[[float], str] = lambda value: compact(value)
    y_log: bool = False
    regions: list[tuple[str, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """A titled chart of a grid of them. note: a line of numbers beside the title."""

    title: str
    chart: Chart
    note: str = ""
    wide: tuple[int, int] = (490, 260)
    narrow: tuple[int, int] | None = (354, 230)
    """For phones; None: the same drawing."""

    @property
    def svg(self) -> Markup:
        """A drawing for wide pages and one for phones; CSS shows one of them."""
        if self.narrow is None:
            return draw(self.chart, *self.wide)
        return draw(self.chart, *self.wide, css="wide") + draw(
            self.chart, *self.narrow, css="narrow"
        )


def ramp(count: int, *, dark: bool = False) -> list[str]:
    """`count` colours, first and last model at the ramp's ends.

    >>> ramp(2)
    ['#6b7686', '#e0590b']
    """
    anchors = _DARK if dark else _LIGHT
    if count < 2:
        return [anchors[-1]] * count
    return [_between(anchors, i * (len(anchors) - 1) / (count - 1)) for i in range(count)]


def _between(anchors: tuple[str, ...], place: float) -> str:
    low = min(int(place), len(anchors) - 2)
    share = place - low
    a, b = (bytes.fromhex(anchors[i][1:]) for i in (low, low + 1))
    return "#" + bytes(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)).hex()


def css_variables(count: int, *, dark: bool = False) -> str:
    """The ramp as CSS declarations --m0, --m1, ..."""
    return "".join(f"--m{i}:{colour};" for i, colour in enumerate(ramp(count, dark=dark)))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers within [low, high].

    >>> ticks(0, 1, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.9999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _some_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, at least two where the range allows: one says nothing about scale."""
    found = ticks(low, high, count)
    return found if len(found) > 1 else ticks(low, high, 2 * max(count, 1) + 1)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most _MAX_POINTS points: means of equal buckets."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Centred mean over about a twentieth of the line; the window shrinks towards the ends."""
    half = max(len(points) // 40, 1)
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        window = points[i - reach : i + reach + 1]
        out.append((x, sum(y for _, y in window) / len(window)))
    return out


def draw(chart: Chart, width: int, height: int, css: str = "") -> Markup:
    """The chart as one <svg> of this size (it scales down, never up)."""
    return _Drawing(chart, width, height).svg(css)


class _Drawing:
    """One chart at one size."""

    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart, self.width, self.height = chart, width, height
        self.x_low, self.x_high = self._x_range()
        self.y_low, self.y_high = self._y_range()
        self.y_ticks = self._y_ticks()
        longest = max((len(chart.y_format(v)) for v in self.y_ticks), default=1)
        self.left, self.right = 10 + 6.6 * longest, 10.0
        self.top = 22.0 if chart.regions else 10.0
        self.bottom = 38.0 if chart.x_label else 22.0
        self.parts: list[str] = []

    def _x_range(self) -> Point:
        if self.chart.x_names:
            return -0.35, len(self.chart.x_names) - 0.65
        xs = [x for s in self.chart.series for x, _ in s.points]
        low, high = min(xs, default=0.0), max(xs, default=1.0)
        for _, start, end in self.chart.regions:
            low, high = min(low, start), max(high, end)
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def _y_range(self) -> Point:
        if self.chart.y_range is not None:
            return self.chart.y_range
        ys = [y for s in self.chart.series for y in self._heights(s)]
        low, high = min(ys, default=0.0), max(ys, default=1.0)
        if self.chart.y_log:
            return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9)
        pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return (low - pad if low != 0 else 0.0), high + pad

    def _heights(self, series: Series) -> list[float]:
        return [y for _, y in thinned(series.points)] + [e for pair in series.errors for e in pair]

    def _y_ticks(self) -> list[float]:
        if not self.chart.y_log:
            return _some_ticks(self.y_low, self.y_high, self.height // 60)
        first, last = round(math.log10(self.y_low)), round(math.log10(self.y_high))
        return [10.0**e for e in range(first, last + 1, max((last - first) // 4, 1))]

    def x(self, value: float) -> float:
        span = self.width - self.left - self.right
        return self.left + span * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.chart.y_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        value = min(max(value, low), high)
        span = self.height - self.top - self.bottom
        return self.height - self.bottom - span * (value - low) / (high - low)

    def svg(self, css: str) -> Markup:
        self._grid()
        self._regions()
        for series in self.chart.series:
            self._series(series)
        title = text_of(self.chart.title)
        return Markup(
            f'<svg class="chart {css}" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{title}"><title>{title}</title>'
            f"{''.join(self.parts)}</svg>"
        )

    def _grid(self) -> None:
        right, floor = self.width - self.right, self.height - self.bottom
        for value in self.y_ticks:
            y = self.y(value)
            self.parts.append(f'<path class="grid" d="M{self.left:.1f} {y:.1f}H{right:.1f}"/>')
            self._label(self.left - 5, y + 4, self.chart.y_format(value), "end")
        names = self.chart.x_names
        places: list[tuple[float, str]] = list(enumerate(names))
        if not names:
            values = _some_ticks(self.x_low, self.x_high, self.width // 75)
            places = [(v, self.chart.x_format(v)) for v in values]
        for value, name in places:
            half = 3.2 * len(name)  # keeps the outermost labels inside the drawing
            self._label(min(max(self.x(value), half), self.width - half), floor + 15, name)
        if self.chart.x_label:
            self._label((self.left + right) / 2, self.height - 5, self.chart.x_label)

    def _regions(self) -> None:
        floor = self.height - self.bottom
        for number, (name, start, end) in enumerate(self.chart.regions):
            left, right = self.x(start), self.x(end)
            if number:
                self.parts.append(f'<path class="edge" d="M{left:.1f} {self.top}V{floor:.1f}"/>')
            short = name if len(name) * 6.6 < right - left else name.split()[-1]
            self._label((left + right) / 2, self.top - 7, short)

    def _series(self, series: Series) -> None:
        points = thinned(series.points)
        style = f'style="stroke:var({series.colour})"'
        if series.style == "noisy":
            self.parts.append(f'<path class="raw" {style} d="{self._path(points)}"/>')
            points = running_mean(points)
        kind = "thin" if series.style == "dashed" else "line"
        self.parts.append(f'<path class="{kind}" {style} d="{self._path(points)}"/>')
        colours = series.dot_colours or [series.colour] * len(points)
        for (x, _), (low, high), colour in zip(series.points, series.errors, colours, strict=False):
            self.parts.append(
                f'<path class="error" style="stroke:var({colour})" '
                f'd="M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}"/>'
            )
        if series.style in ("points", "dashed"):
            radius = 4 if series.style == "points" else 2.5
            for (x, y), colour in zip(points, colours, strict=True):
                self._dot(series, (x, y), colour, radius)

    def _dot(self, series: Series, point: Point, colour: str, radius: float) -> None:
        x, y = point
        names = self.chart.x_names
        where = names[int(x)] if names and 0 <= x < len(names) else self.chart.x_format(x)
        hint = text_of(f"{series.label}, {where}: {self.chart.y_format(y)}".lstrip(", "))
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" '
            f'style="fill:var({colour})"><title>{hint}</title></circle>'
        )

    def _path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)

    def _label(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text_of(text)}</text>'
        )


def text_of(text: str) -> str:
    return html.escape(clean(text), quote=True)
