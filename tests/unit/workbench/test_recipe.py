"""Recipes: strictness, overrides, and one clear line for each mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.graph.dag import config_digest
from workbench.recipe import build, load

RECIPE = """
name: tiny
stages:
  sft1:
    kind: sft
    parts:
      math: {source: {type: world, domain: math}, samples: 10}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_file_and_are_typed(tmp_path: Path) -> None:
    recipe = load(
        write(tmp_path, RECIPE), ["stages.sft1.lr=1e-3", "seed=7", "model.preset=nano2-9b"]
    )
    assert recipe.stages["sft1"].lr == 1e-3  # type: ignore[attr-defined]
    assert (recipe.seed, recipe.model.preset) == (7, "nano2-9b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages.sft1.learning_rate=1", ["stages.sft1.learning_rate", "unknown key"]),
        ("stages.sft1.epoch=2", ["did you mean 'epochs'"]),
        ("stages.sft1.kind=stf", ["unknown stage kind 'stf'", "did you mean 'sft'"]),
        ("stages.sft1.needs=[pretrain]", ["needs 'pretrain'", "not a stage"]),
        ("stages.sft1.epochs=0", ["stages.sft1.epochs", "got 0", "greater than 0"]),
        ("sed=1", ["unknown key 'sed'", "did you mean 'seed'"]),
        ("stages", ["section.key=value"]),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_fix_it(
    tmp_path: Path, change: str, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, RECIPE), [change])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


ALIASED = """
name: tiny
stages:
  a: &a
    kind: sft
    parts: {math: {source: {type: world, domain: math}, samples: 10}}
  b: {<<: *a, lr: 1e-4}
  c: *a
"""


def test_an_override_changes_one_of_the_stages_that_a_yaml_alias_shares(tmp_path: Path) -> None:
    path = write(tmp_path, ALIASED)
    stages = load(path, ["stages.b.parts.math.samples=7", "stages.c.lr=1"]).resolved()["stages"]
    assert [stages[n]["parts"]["math"]["samples"] for n in "abc"] == [10, 7, 10]
    assert [stages[n]["lr"] for n in "abc"] == [5e-6, 1e-4, 1.0]
    with pytest.raises(UserError, match=r"recipe: stages\.c\.parts\.math\.samples: got 0"):
        load(path, ["stages.c.parts.math.samples=0"])


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'seed' stands twice"):
        load(write(tmp_path, RECIPE + "seed: 1\nseed: 2\n"))


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load(path)
    assert recipe.resolved()["stages"]


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_reading_and_planning_a_recipe_imports_no_torch(path: Path) -> None:
    script = (
        f"import sys; sys.argv = ['run_stage.py', 'all', '--recipe', {str(path)!r},"
        " '--dry-run', '--run', 'never-run']\n"
        "import runpy\n"
        "try:\n    runpy.run_path('scripts/run_stage.py', run_name='__main__')\n"
        "except SystemExit as e:\n    assert e.code == 0, e.code\n"
        "heavy = {'torch', 'ray', 'vllm', 'trl', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"stages": {' in done.stdout
    assert "tokens trained or generated" in done.stdout


def test_a_recipe_extends_another_and_says_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: base\nseed: 3\ncluster: {backend: local, num_cpus: 2}\n"
        "stages: {tokenizer: {kind: tokenizer, vocab_size: 700, blend: &b {sources: {m: "
        "{type: pretraining, category: math}}, phases: [{until: 1.0, weights: {m: 1}}]}},"
        " pretrain: {kind: pretrain, needs: [tokenizer], blend: *b}}"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base.yaml\nname: top\ncluster: {num_cpus: 4}\n"
        "stages: {pretrain: null, tokenizer: {seed: 9}, other: {like: tokenizer, vocab_size: 800}}"
    )
    recipe = load(tmp_path / "top.yaml")
    assert (recipe.name, recipe.seed) == ("top", 3)
    assert (recipe.cluster.backend, recipe.cluster.num_cpus) == ("local", 4)
    stages = recipe.resolved()["stages"]
    assert list(stages) == ["tokenizer", "other"]
    assert (stages["tokenizer"]["vocab_size"], stages["tokenizer"]["seed"]) == (700, 9)
    assert stages["other"] == {**stages["tokenizer"], "vocab_size": 800}


def test_a_part_that_is_null_is_left_out_of_what_is_extended(tmp_path: Path) -> None:
    part = "{source: {type: world, domain: math}, samples: 5}"
    (tmp_path / "base.yaml").write_text(
        f"name: base\nstages: {{s: {{kind: sft, parts: {{a: {part}, b: {part}}}}}}}"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base.yaml\nname: top\nstages: {s: {parts: {a: null}}}"
    )
    assert list(load(tmp_path / "top.yaml").resolved()["stages"]["s"]["parts"]) == ["b"]
    for stages in ("{s: {parts: {c: null}}}", "{t: null}"):
        (tmp_path / "wrong.yaml").write_text(f"extends: base.yaml\nname: top\nstages: {stages}")
        with pytest.raises(
            UserError, match="unknown .* left out|unknown part that stages.s leaves out 'c'"
        ):
            load(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: top.yaml", "leads back to"),
        ("extends: none.yaml", "none.yaml' does not exist"),
        ("stages: {a: {like: b}, b: {like: a}}", "leads back to 'a'"),
        ("stages: {a: {like: ab}, abc: {}}", "'abc'"),
    ],
)
def test_an_inheritance_that_leads_nowhere_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "top.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        load(tmp_path / "top.yaml")


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_stage_that_reads_its_recipe_back_has_the_same_digest(path: Path) -> None:
    """A stage's task gets the resolved recipe; another digest there would run it again for ever."""
    recipe = load(path)
    again = build(recipe.resolved())
    for stage in recipe.stages:
        assert config_digest(again, stage) == config_digest(recipe, stage), stage
