"""A Python without the dependencies: one line that names the right one, and nothing is written."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

# What reading and planning a recipe takes.
LIGHT = ("yaml", "pydantic", "pydantic_core", "annotated_types", "typing_inspection",
         "typing_extensions", "numpy", "numpy.libs")  # fmt: skip
PIPELINE = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage()}


def light_python(folder: Path) -> Path:
    """A folder of links to the packages that planning needs, and no others."""
    site = Path(str(importlib.util.find_spec("yaml").origin)).parents[1]  # type: ignore[union-attr]
    folder.mkdir()
    for name in LIGHT:
        found = next((p for p in (site / name, site / f"{name}.py") if p.exists()), None)
        if found is not None:
            (folder / found.name).symlink_to(found)
    (own,) = site.glob("anneal_workbench-*.dist-info")  # it declares the stage kinds
    (folder / own.name).symlink_to(own)
    return folder


def run(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """-S: this Python without its site-packages, where Anneal is installed too."""
    env = {"PYTHONPATH": f"{tiny.ROOT}:{path}"} if path else {}
    command = [sys.executable, "-S", *words]
    return subprocess.run(command, cwd=tiny.ROOT, env=env, capture_output=True, text=True)


def assert_line(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in ("error: ", "make setup", *says):
        assert word in line.replace("use .venv/bin/python", "make setup"), line


@pytest.mark.parametrize("script", ["run_stage", "sweep", "plan"])
def test_not_even_a_recipe_can_be_read(tmp_path: Path, script: str) -> None:
    recipe = tiny.write_recipe(tmp_path, PIPELINE)
    more = {"run_stage": ["all"], "sweep": ["--models=pretrain", "--benchmarks=mini-math"]}
    words = [f"scripts/{script}.py", "--recipe", str(recipe), *more.get(script, [])]
    assert_line(run(*words), "Anneal is not installed")
    empty = tmp_path / "empty"
    assert_line(run(*words, path=empty), "it lacks ")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert run(words[0], "--help", path=empty).returncode == 0


def test_what_a_run_needs_is_looked_for_before_its_folder_is_made(tmp_path: Path) -> None:
    recipe, path = tiny.write_recipe(tmp_path, PIPELINE), light_python(tmp_path / "light")
    words = ["scripts/run_stage.py", "all", "--recipe", str(recipe)]
    assert run(*words, "--dry-run", path=path).returncode == 0
    done = run(*words, path=path)
    assert_line(done, "ray", "torch", "transformers")
    assert not (tmp_path / "runs").exists()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    sweep = ["--recipe", str(recipe), "--models", str(model), "--benchmarks=mini-math"]
    assert_line(run("scripts/sweep.py", *sweep, path=path), "ray", "vllm")
    assert not (tmp_path / "runs").exists()
