"""The report in a real browser: it renders on a phone and a desk, and nothing sticks out."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import write_report
from tests.fake_run import write_fake_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
# Measures the page and tells the frame around it (a window of the browser is never narrower than
# 500 pixels, a frame is). Every <details> is opened first: what is
# folded away must fit too.
_MEASURE = """
<script>
window.addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = OPEN);
  const shown = e => e.getBoundingClientRect().width > 0;
  const svgs = [...document.querySelectorAll("svg")].filter(shown);
  const wide = [...document.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 0.5);
  const small = [...document.querySelectorAll("svg text")].filter(shown).map(
    t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width
         / t.ownerSVGElement.viewBox.baseVal.width);
  // Tables of gains: the first and the last cell of each row, and the room between them.
  const rows = [...document.querySelectorAll(".scroll > table.gains")].filter(shown).flatMap(t => {
    t.parentElement.scrollLeft = SCROLLED * t.offsetWidth;
    const box = t.parentElement.getBoundingClientRect();
    return [...t.rows].map(row => {
      const first = row.cells[0].getBoundingClientRect();
      const last = row.cells[row.cells.length - 1].getBoundingClientRect();
      const inside = first.left >= box.left - 0.5 && last.right <= box.right + 0.5;
      return inside ? last.left - first.right : -1;
    });
  });
  parent.postMessage(JSON.stringify({
    rows: rows.length, room: Math.min(9999, ...rows),
    inner: innerWidth, scroll: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    wide: wide.map(e => e.tagName + "." + e.className), svgs: svgs.length,
    empty: svgs.filter(s => s.getBoundingClientRect().height < 40 || s.children.length < 3).length,
    smallest: Math.min(...small), background: getComputedStyle(document.body).backgroundColor,
    alerts: window.owned || 0, requests: performance.getEntriesByType("resource").length,
  }), "*");
});
</script>
"""
_FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><title></title>
<script>addEventListener("message", e => { document.title = "MEASURED" + e.data + "END"; });</script>
<iframe src="measured.html" width="WIDTH" height="900" style="border: 0"></iframe>
"""


def _measure(
    report: Path,
    folder: Path,
    *,
    width: int,
    opened: bool = True,
    dark: bool = False,
    scrolled: float = 0,
) -> dict[str, Any]:
    # The page's own policy forbids scripts, so the measured copy goes without it.
    page = re.sub(r"<meta http-equiv[^>]*>", "", report.read_text(encoding="utf-8"))
    script = _MEASURE.replace("OPEN", "true") if opened else _MEASURE.replace("OPEN", "d.open")
    script = script.replace("SCROLLED", str(scrolled))
    copy = folder / "measured.html"
    copy.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom = _chromium(
        folder,
        "--window-size=1400,1000",
        "--virtual-time-budget=10000",
        "--dump-dom",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        frame.as_uri(),
    )
    found = re.search(r"MEASURED(\{.*?\})END", dom)
    assert found, dom[:2000]
    measured: dict[str, Any] = json.loads(found[1].replace("&amp;", "&"))
    return measured


def _chromium(folder: Path, *words: str) -> str:
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *flags, profile, "--hide-scrollbars", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["finished", "hostile", "half"])
def test_the_page_fits_its_window(tmp_path: Path, width: int, kind: str) -> None:
    run = write_fake_run(
        tmp_path / "run", done=3 if kind == "half" else 7, hostile=kind == "hostile", n=30
    )
    write_report(run)
    seen = _measure(run / "report.html", tmp_path, width=width)
    assert seen["inner"] == width
    assert seen["scroll"] <= width
    assert seen["wide"] == []
    assert seen["svgs"] >= (4 if kind == "half" else 30)
    assert seen["empty"] == 0
    assert seen["smallest"] >= 10  # pixels: readable without zooming
    assert seen["requests"] == 0


@pytest.mark.parametrize("scrolled", [0, 0.5, 1])
def test_a_gain_stays_in_sight_on_a_phone(tmp_path: Path, scrolled: float) -> None:
    """However far a wide table is scrolled: its first and last column, and room for one between."""
    run = write_fake_run(tmp_path / "run", n=30)
    write_report(run)
    seen = _measure(run / "report.html", tmp_path, width=390, scrolled=scrolled)
    assert seen["rows"] == 2 * 9 + 2  # reasoning on and off: seven benchmarks; one lift
    assert seen["room"] >= 100  # pixels


def test_each_width_gets_one_drawing_of_a_chart(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=30)
    write_report(run)
    phone, desk = (
        _measure(run / "report.html", tmp_path, width=width, opened=False) for width in (390, 1280)
    )
    assert phone["svgs"] == desk["svgs"]


def test_dark_mode_follows_the_reader(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", done=2)
    write_report(run)
    light, dark = (
        _measure(run / "report.html", tmp_path, width=390, dark=dark) for dark in (False, True)
    )
    assert light["background"] == "rgb(251, 250, 248)"
    assert dark["background"] == "rgb(20, 22, 26)"


def test_scripts_do_not_run_even_if_one_got_in(tmp_path: Path) -> None:
    """The page's policy is the second wall behind escaping."""
    run = write_fake_run(tmp_path / "run", done=2)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    copy = tmp_path / "broken.html"
    copy.write_text(page.replace("</body>", "<script>document.title = 'ran'</script></body>"))
    title = re.search(r"<title>(.*?)</title>", _chromium(tmp_path, "--dump-dom", copy.as_uri()))
    assert title is not None
    assert title[1] != "ran"
    (tmp_path / "open.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", copy.read_text()))
    opened = _chromium(tmp_path, "--dump-dom", (tmp_path / "open.html").as_uri())
    assert "<title>ran</title>" in opened  # the probe itself works


def test_a_screenshot_is_not_blank(tmp_path: Path) -> None:
    from PIL import Image

    run = write_fake_run(tmp_path / "run", n=30)
    write_report(run)
    shot = tmp_path / "shot.png"
    page = (run / "report.html").as_uri()
    _chromium(tmp_path, "--window-size=390,3000", f"--screenshot={shot}", page)
    picture = Image.open(shot).convert("RGB")
    assert picture.size == (390, 3000)
    bands = [picture.crop((0, top, 390, top + 300)) for top in range(0, 3000, 300)]
    assert all(len(band.getcolors(2**20) or []) > 20 for band in bands)
