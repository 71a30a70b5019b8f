"""The live page: what is in it, that nothing in it runs, and that a run in the middle of writing is no end."""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.read import read_run
from reports.watch import server, watch_page
from tests.fake_run import HOSTILE, write_fake_run
from workbench.errors import UserError
from workbench.statistics import mean_interval


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "r"
    write_fake_run(root, n=10, budgets=False)
    return root


def _rollouts(root: Path, rewards: list[float | None], *, reply: str = "it is 4") -> None:
    (root / "grpo").mkdir(exist_ok=True)
    rows = [
        {
            "step": 7, "prompt": f"p{n // 2}", "reply": reply, "reward": reward, "status": "ok",
            "parts": {"components": {"right": {"value": reward, "parts": {"gold": "4"}}}},
        }
        for n, reward in enumerate(rewards)
    ]  # fmt: skip
    older = {"step": 6, "prompt": "older", "reply": "older reply", "reward": 1.0, "parts": {}}
    lines = [json.dumps(row) for row in (older, *rows)]
    (root / "grpo" / "rollouts.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "torn')


def test_the_newest_rollouts_with_every_part_and_an_interval(run: Path) -> None:
    _rollouts(run, [1.0, 0.0, 1.0, 1.0, None])
    page = watch_page(run)
    found = mean_interval([1.0, 0.0, 1.0, 1.0], ["p0", "p0", "p1", "p1"])
    assert (
        f"mean reward 0.750 (95% {found.low:.3f} to {found.high:.3f}, n = 4 kept, 1 without one)"
        in page
    )
    assert "step 7" in page and "older reply" not in page
    assert "<td>components/right/parts/gold</td><td>4</td>" in page


def test_what_a_model_writes_is_text(run: Path) -> None:
    _rollouts(run, [1.0], reply=HOSTILE)
    page = watch_page(run)
    assert "<script" not in page and "onerror=alert(1)&gt;" in page
    assert "default-src 'none'" in page


def test_a_stage_that_learns_nothing_is_said(run: Path) -> None:
    row = {"tokens": 1, "wall_s": 1.0, "mixed_groups": 0.0, "reward": 1.0}
    (run / "grpo").mkdir(exist_ok=True)
    lines = [json.dumps({"step": n, **row}) for n in range(1, 9)]
    (run / "grpo" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "grpo: all groups are alike: 0% of the last 5 steps" in watch_page(run)


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    with server(run, port=0, every_s=2) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_it_is_read_anew_for_each_request(run: Path, address: str) -> None:
    with urllib.request.urlopen(address + "/") as first:
        assert first.headers["Refresh"] == "2"
        assert "Newest rollouts" not in first.read().decode()
    _rollouts(run, [1.0])
    with urllib.request.urlopen(address + "/") as second:
        assert "Newest rollouts of grpo, step 7" in second.read().decode()
    with urllib.request.urlopen(address + "/report") as report:
        assert report.headers["Refresh"] is None
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + "/../../etc/passwd")


def test_a_file_that_is_being_written_is_no_end(run: Path, address: str) -> None:
    path = run / "recipe.json"
    whole = path.read_text()
    path.write_text(whole[:50])
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(address + "/")
    path.write_text(whole)
    urllib.request.urlopen(address + "/").close()


def test_what_cannot_be_watched_is_one_line(tmp_path: Path, run: Path, address: str) -> None:
    with pytest.raises(UserError):
        server(tmp_path / "nowhere", port=0)
    with pytest.raises(UserError, match="give another --port"):
        server(run, port=int(address.rpartition(":")[2]))


def test_a_stuck_stage_shows_where_it_stands_until_it_goes_on(tmp_path: Path) -> None:
    root = write_fake_run(tmp_path / "part", done=5, n=5)
    stage = next(s.name for s in read_run(root).stages.values() if s.status == "unfinished")
    (root / stage / "stacks").mkdir()
    (root / stage / "stacks" / "stuck.txt").write_text("in collective <b>")
    assert "<pre>in collective &lt;b&gt;</pre>" in watch_page(root)
    progress = root / stage / "progress.json"
    progress.write_text("{}")
    later = (root / stage / "stacks" / "stuck.txt").stat().st_mtime + 5
    os.utime(progress, (later, later))
    assert "in collective" not in watch_page(root)


def test_a_port_that_is_none_is_one_line(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    with pytest.raises(UserError, match="port 99999 cannot be used .*; give another --port"):
        server(tmp_path, port=99999, every_s=1.0)
