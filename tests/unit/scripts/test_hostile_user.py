"""What a hostile new user types: one line on stderr, exit code 2, no traceback, nothing written."""

import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

PIPELINE = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage()}
RUN, SWEEP, PLAN, REPORT = "run_stage", "sweep", "plan", "report"


@pytest.fixture
def fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a script that must fail with one line; returns that line."""

    def run(script: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tiny.ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        assert ended.value.code == 2, (ended.value.code, out, err)
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: "), err
        assert "Traceback" not in out + err
        assert len(lines[0]) < 1500
        return lines[0]

    return run


def recipe(folder: Path, text: str | bytes | None = None, **top: Any) -> str:
    path = tiny.write_recipe(folder, PIPELINE, **top)
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# What is in the recipe file, words of the error.
FILES: list[tuple[str, str | bytes, list[str]]] = [
    ("empty", "", ["must be a mapping"]),
    ("binary", bytes(range(256)), ["not a text file in UTF-8"]),
    ("UTF-16", "name: x".encode("utf-16"), ["not a text file in UTF-8"]),
    ("no YAML", "stages: {a: [", ["not valid YAML"]),
    ("tabs", "stages:\n\ta: 1", ["not valid YAML"]),
    ("Python object", "name: !!python/object/apply:os.system [ls]", ["not valid YAML"]),
    ("date that is none", "name: 2024-13-45", ["`stages` must be a mapping"]),
    ("number that is none", "seed: 1e999", ["not valid YAML", "too large"]),
    ("list", "- a\n- b\n", ["must be a mapping"]),
    ("no stages", "name: x\n", ["`stages` must be a mapping"]),
    ("stages is a list", "name: x\nstages: [a]\n", ["`stages` must be a mapping"]),
    ("stage is a word", "name: x\nstages: {a: pretrain}\n", ["stages.a must be a mapping"]),
    ("key twice", "name: x\nname: y\nstages: {}\n", ["stands twice"]),
    ("itself", "extends: recipe.yaml\n", ["leads back to"]),
    ("its own parent", "extends: ../nowhere/base.yaml\n", ["does not exist"]),
    ("a circle within", "name: x\nstages: &s {a: *s}\n", ["recipe:"]),
    ("a number as a name", "name: 7\nstages: {a: {kind: tokenizer, from_pretrained: x}}\n", ["name", "string"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), [c[1:] for c in FILES], ids=[c[0] for c in FILES])
@pytest.mark.parametrize("script", [RUN, PLAN])
def test_recipe_files(
    tmp_path: Path, fails: Callable[..., str], script: str, text: str | bytes, says: list[str]
) -> None:
    words = ["all"] if script == RUN else []
    line = fails(script, *words, "--recipe", recipe(tmp_path, text))
    for word in says:
        assert word in line, line


# The option, words of the error.
SETTINGS: list[tuple[str, list[str]]] = [
    ("no_such=1", ["unknown key 'no_such'", "allowed here"]),
    ("stages.pretrain.row_tokes=1", ["did you mean 'row_tokens'"]),
    ("cluster.num_cpu=1", ["did you mean 'num_cpus'"]),
    ("stages.pretain.seed=1", ["stages.pretain", "kind", "did you mean stages.pretrain?"]),
    ("stages.pretrain.needs=[nothere]", ["error: recipe: stage 'pretrain' needs 'nothere'"]),
    ("stages.pretrain.blend.sources.math.type=pretrainin",
     ["stages.pretrain.blend.sources.math: unknown type", "did you mean 'pretraining'?"]),
    ("stages.pretrain.blend.sources.math={category: math}",
     ["stages.pretrain.blend.sources.math: 'type' is missing", "pretraining"]),
    ("nothing", ["section.key=value"]),
    ("=3", ["section.key=value"]),
    ("name.x.y=3", ["no such place"]),
    ("stages=3", ["`stages` must be a mapping"]),
    ("stages.pretrain=3", ["stages.pretrain must be a mapping"]),
    ("seed=-1", ["seed", "greater than or equal to 0"]),
    ("seed=1" + "0" * 40, ["seed"]),
    ("seed=" + "9" * 5000, ["not valid YAML"]),
    ("stages.pretrain.seed=-5", ["stages.pretrain.seed"]),
    ("stages.pretrain.total_tokens=-5", ["stages.pretrain.total_tokens"]),
    ("stages.pretrain.total_tokens=many", ["stages.pretrain.total_tokens"]),
    ("stages.pretrain.cpus=-1", ["stages.pretrain.cpus"]),
    ("stages.pretrain.cpus=.nan", ["stages.pretrain.cpus", "finite"]),
    ("stages.pretrain.cpus=.inf", ["stages.pretrain.cpus", "finite"]),
    ("cluster.num_cpus=0", ["cluster.num_cpus"]),
    ("cluster.num_cpus=1000000", ["cluster.num_cpus"]),
    ("cluster.object_store_mb=1", ["cluster.object_store_mb"]),
    ("cluster.stop_grace_s=-1", ["cluster.stop_grace_s"]),
    ("cluster.backend=slurm", ["cluster.backend", "slurm"]),
    ("model.overrides.hidden_size=-64", ["hidden_size"]),
    ("model.overrides.hidden_size=large", ["hidden_size"]),
    ("model.overrides.pattern=MXM", ["pattern"]),
    ("model.overrides.pattern=", ["pattern"]),
    ("model.overrides.mamba_num_heads=7", ["mamba_num_heads"]),
    ("stages.pretrain.schedule.peak_lr=.inf", ["peak_lr", "finite"]),
    ("stages.pretrain.needs=[pretrain]", ["circle"]),
    ("stages.pretrain.needs=tokenizer", ["stages.pretrain.needs", "list"]),
    ("stages.pretrain.blend.phases.0.weights.math=-1", ["-1"]),
    ("stages.pretrain.blend.phases.9.until=1", ["no such place"]),
    ("stages.pretrain.blend.phases.².until=1", ["no such place"]),
    ("stages.x/y={kind: tokenizer, from_pretrained: x}", ["stage name 'x/y'", "contains '/'"]),
    ("name=[a]", ["name"]),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "says"), SETTINGS, ids=[s[0][:40] for s in SETTINGS])
def test_settings(tmp_path: Path, fails: Callable[..., str], setting: str, says: list[str]) -> None:
    line = fails(RUN, "all", "--dry-run", "--recipe", recipe(tmp_path), "--set", setting)
    for word in says:
        assert word in line, line


# An absolute name is one that nobody can write to, should this ever fail.
NAMES = [
    "../other",
    "/proc/other",
    "a/b",
    "..",
    ".",
    ".hidden",
    "-x",
    " ",
    "a\tb",
    "n" * 300,
    "\udcff",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("script", [RUN, SWEEP])
def test_run_names_stay_inside_runs_dir(
    tmp_path: Path, fails: Callable[..., str], script: str, name: str
) -> None:
    more = ["all"] if script == RUN else ["--models", "pretrain", "--benchmarks", "mini-math"]
    before = sorted(tmp_path.parent.iterdir())
    line = fails(script, *more, "--recipe", recipe(tmp_path), f"--run={name}")
    assert "run name" in line
    assert sorted(tmp_path.parent.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]
    if script == RUN:  # a recipe's name is the run's where none is given
        assert "run name" in fails(script, *more, "--recipe", recipe(tmp_path, name=name))


@pytest.mark.parametrize("where", ["/proc/none", "/dev/null/runs", "/sys/runs", '"a\\0b"', '""'])
def test_places_that_cannot_hold_a_run(
    tmp_path: Path, fails: Callable[..., str], where: str
) -> None:
    words = ("all", "--recipe", recipe(tmp_path), "--set", f"runs_dir={where}")
    line = fails(RUN, *words)
    assert "cannot be written" in line or "runs_dir" in line


def test_a_recipe_that_is_a_folder(tmp_path: Path, fails: Callable[..., str]) -> None:
    for script, words in ((RUN, ["all"]), (PLAN, []), (SWEEP, ["--models=a", "--benchmarks=b"])):
        assert "is a folder" in fails(script, *words, "--recipe", str(tmp_path))
        assert "does not exist" in fails(script, *words, "--recipe", str(tmp_path / "none"))
        assert "n" * 50 in fails(script, *words, "--recipe", "n" * 500)


@pytest.mark.parametrize("found", ["[]", "7", "{", "", '{"name": 3}'])
def test_a_run_folder_with_another_kind_of_recipe_json(
    tmp_path: Path, fails: Callable[..., str], found: str
) -> None:
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(found)
    line = fails(RUN, "all", "--recipe", recipe(tmp_path))
    assert "recipe.json" in line or "belongs to recipe" in line
    assert (run / "recipe.json").read_text() == found


ADDRESSES = ["127.0.0.1:99999", "x" * 80 + ":6379", "http://127.0.0.1:1", "127.0.0.1", ":1", "a:b"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_ray_addresses(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    line = fails(RUN, "all", "--recipe", recipe(tmp_path))
    assert f"{address!r}" in line


def test_plan_and_sweep_options(tmp_path: Path, fails: Callable[..., str]) -> None:
    path = recipe(tmp_path)
    assert "h100" in fails(PLAN, "--recipe", path, "--hardware", "h10")
    for share in ("nan", "inf", "-1", "0", "2"):
        assert "share of the peak" in fails(PLAN, "--recipe", path, f"--mfu={share}")
    sweep = ("--recipe", path, "--models", "pretrain", "--benchmarks", "mini-math")
    assert "no model yet" in fails(SWEEP, *sweep)
    assert "not a stage of the recipe" in fails(SWEEP, *sweep[:2], "--models=../..", *sweep[4:])
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text("{}")
    given = ("--recipe", path, "--models", str(model), "--benchmarks")
    said = fails(SWEEP, *given, "mini-mth")
    assert "did you mean 'mini-math'" in said and re.search(r" and \d+ more$", said.strip())
    assert len(said) < 500
    assert "--benchmarks is empty" in fails(SWEEP, *given, " , ")
    for option, word in (
        ("--budgets=-3", "budget '-3'"), ("--budgets=1e9", "budget '1e9'"), ("--limit=0", "limit"),
        ("--samples=-1", "samples"), ("--set=evals.temperature=.nan", "temperature"),
        ("--set=evals.limt=3", "did you mean 'limit'"), ("--set=evals.data=3", "data"),
    ):  # fmt: skip
        assert word in fails(SWEEP, *given, "mini-math", option)


def test_report_of_what_is_no_run(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "not a run" in fails(REPORT, "nothing")
    assert "not a run" in fails(REPORT, "")
    assert "not a run" in fails(REPORT, "../../etc")
    assert "x" * 50 in fails(REPORT, "x" * 5000)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir(parents=True)
    for text in (b"", b"[]", b"\xff\xfe", b'{"stages": 3}', b'{"stages": {"a": 1}}'):
        (broken / "recipe.json").write_bytes(text)
        assert "recipe.json" in fails(REPORT, "broken"), text


def test_a_report_that_cannot_be_written(tmp_path: Path, fails: Callable[..., str]) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps({"name": "mine", "stages": {}}))
    (run / "report.html").mkdir()
    assert "report.html" in fails(REPORT, "mine")
    (run / "report.html").rmdir()
    assert "no" in fails(REPORT, "mine", "--png", "no/such/folder/x.png")


def test_a_dead_cluster_leaves_no_run_folder(tmp_path: Path, fails: Callable[..., str]) -> None:
    words = ("all", "--recipe", recipe(tmp_path), "--address", "127.0.0.1:9")
    assert "does not answer" in fails(RUN, *words)
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text("{}")
    sweep = ("--recipe", recipe(tmp_path), "--models", str(model), "--benchmarks=mini-math")
    assert "does not answer" in fails(SWEEP, *sweep, "--set=cluster.address=127.0.0.1:9")
    assert not (tmp_path / "runs").exists()


def test_unicode_names_are_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.rundir import RunDir

    run, _ = RunDir.of(str(tmp_path), "мой прогон 試行")
    with run.claimed():
        run.adopt({"name": "имя"})
    assert os.listdir(tmp_path) == ["мой прогон 試行"]
