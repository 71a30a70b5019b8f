"""The live page in a real browser: it shows the rollouts, fits a phone, and asks again by itself."""

import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from reports.watch import server
from tests.fake_run import HOSTILE, write_fake_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def test_the_page_shows_what_the_run_writes(tmp_path: Path) -> None:
    root = tmp_path / "r"
    write_fake_run(root)
    row = {
        "step": 3,
        "prompt": "p",
        "reply": HOSTILE,
        "reward": 0.5,
        "status": "ok",
        "parts": {"a": 1},
    }
    (root / "grpo" / "rollouts.jsonl").write_text(json.dumps(row) + "\n")
    with server(root, port=0, every_s=60) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--dump-dom"]
        address = f"http://127.0.0.1:{served.server_port}/"
        done = subprocess.run(
            [str(CHROMIUM), *flags, address], capture_output=True, text=True, timeout=120
        )
        served.shutdown()
    dom = done.stdout
    assert dom.count('class="rollout"') == 1 and "Newest rollouts of grpo, step 3" in dom
    assert dom.count("<svg") >= 3  # losses of stages and the reward
    assert "<script" not in dom and "<img" not in dom
