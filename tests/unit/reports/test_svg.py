import math
import re
from xml.etree import ElementTree

import pytest

from reports.page import clean, shortened
from reports.svg import Chart, Series, draw, ramp, running_mean, thinned, ticks


def _parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def _circles(svg: str) -> list[tuple[float, float]]:
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in _parse(svg).iter("circle")]


def test_points_stand_where_the_axes_say() -> None:
    """[derived] y from 0 to 1 on 10..138 (10 above, 22 below of 160); label "100" is 19.8 wide."""
    chart = Chart(
        "t",
        [Series("a", [(0, 0.0), (5, 0.25), (10, 1.0)], "--m0", style="points")],
        y_range=(0, 1),
        y_format=lambda v: f"{100 * v:.0f}",
    )
    (x0, y0), (x1, y1), (x2, y2) = _circles(draw(chart, 300, 160))
    assert (y0, y1, y2) == (138, 106, 10)
    assert x0 == pytest.approx(29.8)
    assert x2 == 290
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.06)


def test_a_log_axis_is_even_in_decades() -> None:
    points = [(0.0, 1e-6), (1.0, 1e-5), (2.0, 1e-4)]
    chart = Chart("t", [Series("a", points, "--m0", style="points")], y_log=True)
    ys = [y for _, y in _circles(draw(chart, 300, 160))]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert ys[0] > ys[2]


def test_regions_are_cut_at_their_edges() -> None:
    regions = [("phase 1", 0.0, 60.0), ("phase 2", 60.0, 90.0), ("phase 3", 90.0, 100.0)]
    line = Series("a", [(0.0, 1.0), (100.0, 0.0)], "--m0", style="points")
    svg = draw(Chart("t", [line], regions=regions), 1000, 300)
    (first, _), (last, _) = _circles(svg)
    edges = [float(x) for x in re.findall(r'class="edge" d="M([\d.]+)', svg)]
    assert edges == [pytest.approx(first + share * (last - first), abs=0.1) for share in (0.6, 0.9)]
    for name in ("phase 1", "phase 2", "phase 3"):
        assert f">{name}<" in svg


def test_text_of_a_chart_is_escaped() -> None:
    name = '</svg><script>"&'
    svg = draw(Chart(name, [Series(name, [(0.0, 1.0)], "--m0", style="points")]), 200, 100)
    root = _parse(svg)  # well-formed XML
    assert root.attrib["aria-label"] == name
    assert "script" not in {element.tag for element in root.iter()}


@pytest.mark.parametrize(
    "points",
    [[], [(1.0, 2.0)], [(1.0, 2.0)] * 3, [(0.0, 0.0), (1.0, 0.0)], [(0.0, -1e-9), (1.0, 1e9)]],
)
def test_odd_data_still_draws(points: list[tuple[float, float]]) -> None:
    svg = draw(Chart("t", [Series("a", points, "--m0", style="noisy")], "step"), 300, 160)
    assert "nan" not in svg.lower().replace("nance", "")
    _parse(svg)


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [(0, 1, 2, [0, 0.5, 1]), (0, 4e6, 8, [i * 5e5 for i in range(9)]), (3, 17, 3, [5, 10, 15])],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == expected


def test_a_long_line_is_averaged_not_cut() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(5000)]
    short = thinned(points)
    assert len(short) <= 400
    assert sum(y for _, y in short) / len(short) == pytest.approx(
        sum(y for _, y in points) / 5000, abs=1e-2
    )
    assert running_mean([(0.0, 1.0), (1.0, 4.0), (2.0, 1.0)]) == [
        (0.0, 1.0),
        (1.0, 2.0),
        (2.0, 1.0),
    ]


def test_every_model_has_a_colour_of_its_own() -> None:
    for count in (1, 2, 5, 9):
        assert len(set(ramp(count))) == len(set(ramp(count, dark=True))) == count


def test_clean_keeps_ordinary_text_of_every_language() -> None:
    text = "zażółć 日本語 עברית العربية 🙂 a\tb\nc \u200e"
    assert clean(text) == text
    assert clean("\u2066x\u2069\x07") == "⟨2066⟩x⟨2069⟩⟨07⟩"
    assert shortened("abcdef", 4) == "abcd … (2 more characters)"
    assert shortened("abcd", 4) == "abcd"
