"""The data section of a run's page: the funnel, and what was kept and removed."""

import json
from pathlib import Path

from reports.data import data_views
from reports.read import read_run
from reports.write import write_report
from tests.data_stages import run_stages


def test_the_page_shows_the_funnel_and_rows_side_by_side_escaped(tmp_path: Path) -> None:
    texts = [
        "<script>alert(1)</script> " * 4,
        "short",
        "a text that is long enough to be kept",
        "tiny",
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"t{n}", "text": t}) + "\n" for n, t in enumerate(texts))
    )
    source = {"type": "jsonl", "form": "text", "column": "text", "path": str(path)}
    steps = [{"type": "language", "among": ["en", "de"]}, {"type": "length", "least": 10}]
    pages = {"kind": "curate", "input": source, "steps": steps, "keep_removed": 1.0}
    run_stages(tmp_path / "run", {"pages": pages})
    (view,) = data_views(read_run(tmp_path / "run"))
    assert [(row.step, row.rows, row.share) for row in view.funnel] == [
        ("input", 4, "100%"), ("language", 4, "100%"), ("length", 2, "50%"),
    ]  # fmt: skip
    assert view.funnel[-1].left_out == "too short: 2"
    sides = [(kept and kept.id, removed and removed.id) for kept, removed in view.pairs]
    assert sorted(str(kept) for kept, _ in sides) == ["t0", "t2"]
    assert sorted(str(removed) for _, removed in sides) == ["t1", "t3"]
    write_report(tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "too short: 2" in page
