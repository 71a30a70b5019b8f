"""A stage kind of the user's own: named by its file, planned, run, and run again where its file changes."""

import json
from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT, finish
from workbench import registry
from workbench.errors import UserError
from workbench.recipe import build

KIND = (ROOT / "docs" / "examples" / "custom_kind.py").read_text()


def test_a_kind_in_a_file_runs_and_its_file_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(KIND)
    recipe = {
        "name": "own", "cluster": {"backend": "local"}, "runs_dir": str(tmp_path / "runs"),
        "stages": {"words": {"kind": f"{tmp_path}/mine.py:KIND", "path": str(tmp_path / "in.txt"), "least": 2}},
    }  # fmt: skip
    (tmp_path / "in.txt").write_text("a b a c b a\n")
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = ("all", "--recipe", str(file))
    finish(*command)
    outputs = json.loads((tmp_path / "runs/own/words/manifest.json").read_text())["outputs"]
    assert outputs["counts"] == {"a": 3, "b": 2}
    (tmp_path / "mine.py").write_text(KIND + "\n# another version\n")
    planned = finish(*command, "--dry-run").split("plan:")[1]
    assert "mine.py:KIND" in planned and "words with 2 or more" in planned
    recipe["stages"]["words"]["lest"] = 3
    with pytest.raises(UserError, match="unknown key 'stages.words.lest'; did you mean 'least'"):
        build(recipe)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("KIND = 3", "is int 3; it must be a workbench.registry.Kind"),
        ("raise ValueError('no')", "cannot be loaded: ValueError: no"),
        ("OTHER = 1", "cannot be loaded: AttributeError"),
    ],
)
def test_what_is_no_kind_is_one_line(body: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(body)
    with pytest.raises(UserError, match=says) as raised:
        registry.kind(f"{path}:KIND")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="there is no file"):
        registry.kind("nowhere.py:KIND")
