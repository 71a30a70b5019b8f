"""The notebook of the guides: every cell runs, in order, in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_every_cell_of_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads(Path("docs/guides/miniature.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    (tmp_path / "recipes").symlink_to(Path("recipes").resolve())
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/notebook/tokenizer/manifest.json").is_file()
    assert "did you mean 'lr'" in done.stdout
