"""Each command in a ```bash block of docs/guides is run, in order, with the files that the guide shows."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.judge_server import Said, judge_server
from workbench.recipe import load
from workbench.results import Validated
from workbench.rundir import Manifest, RunDir

GUIDES = sorted(Path("docs/guides").glob("*.md"))
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
_PYTHON = re.compile(r"`(\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)
# Of set-up: what the tests stand on already.
_NOT_HERE = ("source ", "FLAVOUR=")


def _commands(text: str) -> list[str]:
    return [line for block in _BLOCK.findall(text) for line in block.strip().splitlines()]


def _as_if_trained(folder: Path) -> None:
    """What `anneal run all` leaves of the guide's recipe, as far as a fork's dry run looks."""
    recipe = load(folder / "mine.yaml", [f"runs_dir={folder / 'runs'}"])
    run = RunDir(folder / "runs" / recipe.name)
    for name, stage in recipe.stages.items():
        run.stage(name).mkdir(parents=True)
        validated = Validated(
            by="reward", better="higher", best_step=5, keep="best", ended_early=False, history=[]
        )
        outputs = {"validation": validated.model_dump()}
        run.write_manifest(Manifest(name, stage.kind, "done", {}, "", 0, outputs=outputs))
    run.adopt(recipe.resolved())
    (run.stage("mine") / "checkpoints").mkdir()
    (run.stage("mine") / "checkpoints" / "step-5.pt").touch()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_commands_of_a_guide_do_what_it_says(guide: Path, tmp_path: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for name, code in _PYTHON.findall(text):
        (tmp_path / name).write_text(code)
    rows = [
        {
            "id": f"a{n}", "domain": "sums", "check": {"kind": "math", "reference": str(n + 30)},
            "messages": [{"role": "user", "content": f"{n} + 30 = ?"}],
        }
        for n in range(20)
    ]  # fmt: skip
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipes").symlink_to(Path("recipes").resolve())
    commands = [c for c in _commands(text) if not c.startswith(_NOT_HERE)]
    assert commands
    with judge_server(lambda asked: Said("4")) as one, judge_server(lambda asked: Said("5")) as two:
        for command in commands:
            if "--fork" in command:
                _as_if_trained(tmp_path)
            for port, server in ((8000, one), (8001, two)):
                address = server.address.partition("#")[0]
                command = command.replace(f"http://127.0.0.1:{port}/v1", address)
            words = [sys.executable, "-m", "scripts.anneal", *shlex.split(command)[1:]]
            environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-800:]}\n{done.stderr[-800:]}"
