"""A sweep's pages in a real browser: they fit, run nothing, and their filters filter."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reports import read_run, write_pages
from tests.fake_run import HOSTILE, write_fake_run
from tests.integration.test_report_chromium import CHROMIUM, _chromium, _measure

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = write_fake_run(tmp_path / "run", n=30, hostile=True)
    for path in (root / "evals").glob("*/*/results.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps(data | {"headline": "accuracy"}))
    part = {"value": 0.1, "stderr": 0.1, "ci95": [-0.1, 0.3], "n": 30}
    compared = {
        "benchmark": "mini-math", "against": "sft1", "model": HOSTILE, "difference": part,
        "before": part, "after": part, "p": 0.2, "p_holm": None, "note": HOSTILE,
    }  # fmt: skip
    (root / "evals" / "comparisons.json").write_text(json.dumps([compared]))
    write_pages(read_run(root))
    return root


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["index.html", "grpo/mini-math/index.html"])
def test_pages_fit_their_window(run: Path, tmp_path: Path, width: int, page: str) -> None:
    seen = _measure(run / "evals" / page, tmp_path, width=width)
    assert seen["inner"] == width
    assert seen["scroll"] <= width
    assert seen["wide"] == []
    assert seen["requests"] == 0
    assert seen["alerts"] == 0


_COUNT = """
<script>
window.addEventListener("load", () => {
  const shown = () => [...document.querySelectorAll(".sample")].filter(
    e => getComputedStyle(e).display !== "none").length;
  const counts = {};
  for (const name of ["all", "wrong", "right", "cut", "ill", "failed"]) {
    document.querySelector(`label[for="f-${name}"]`).click();
    counts[name] = shown();
  }
  document.title = "COUNTED" + JSON.stringify(counts) + "END";
});
</script>
"""


def _shown(page: Path, folder: Path) -> dict[str, int]:
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    copy = folder / "counted.html"
    copy.write_text(text.replace("</body>", _COUNT + "</body>"), encoding="utf-8")
    dom = _chromium(folder, "--virtual-time-budget=5000", "--dump-dom", copy.as_uri())
    found = re.search(r"COUNTED(\{.*?\})END", dom)
    assert found, dom[:2000]
    counts: dict[str, int] = json.loads(found[1].replace("&quot;", '"'))
    return counts


def test_filters_show_exactly_what_they_say(run: Path, tmp_path: Path) -> None:
    folder = run / "evals" / "sft1" / "mini-coding"
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()
    ]
    scored = [row for row in rows if row["value"] is not None]
    assert _shown(folder / "index.html", tmp_path) == {
        "all": 30,
        "failed": 1,
        "wrong": sum(row["value"] == 0 for row in scored),
        "right": sum(row["value"] == 1 for row in scored),
        "cut": sum(row["finish_reason"] == "length" for row in rows),
        "ill": sum(not row["well_formed"] for row in scored),
    }


def test_links_lead_to_pages(run: Path) -> None:
    index = run / "evals" / "index.html"
    links = re.findall(r'<td><a href="([^"]+)"', index.read_text(encoding="utf-8"))
    assert len(links) == 5 * 7 * 2 + 2 * 3
    assert all((index.parent / link).is_file() for link in links)
