"""One recipe under several seeds: claims, verdicts, pages; and the command that runs them."""

import json
import math
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from reports.read import RunFacts, read_run
from reports.seeds import Claim, markdown, replication, write_replication
from scripts.replicate import _report, _run_seed, seeds_of
from tests import tiny
from tests.fake_run import ACCURACY, write_fake_run
from workbench.errors import UserError
from workbench.recipe import apply_override
from workbench.records import Difference, Estimate
from workbench.statistics import mean_over_seeds

REPLICATE = tiny.ROOT / "scripts/replicate.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "miniature-seeds"
    for seed in (1, 2, 3):
        write_fake_run(root / f"seed-{seed}", seed=seed, n=40)
    return root


def runs(root: Path) -> dict[int, RunFacts]:
    return {seed: read_run(root / f"seed-{seed}") for seed in (1, 2, 3)}


def estimate(value: float, stderr: float = 0.0) -> Estimate:
    return Estimate(value, stderr, (value - 1.96 * stderr, value + 1.96 * stderr), 50)


def test_the_interval_has_the_seeds_and_the_questions_in_it() -> None:
    """[derived] s = 0.1, s / sqrt(3) = 0.0577, t(2) = 4.303; the questions add 1.96 * 0.05."""
    seeds_alone = mean_over_seeds([estimate(v) for v in (0.1, 0.2, 0.3)])
    assert seeds_alone.value == pytest.approx(0.2)
    assert seeds_alone.high - 0.2 == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    both = mean_over_seeds([estimate(v, 0.05) for v in (0.1, 0.2, 0.3)])
    assert both.high - 0.2 == pytest.approx(math.hypot(0.24842, 1.95996 * 0.05), rel=1e-4)
    alike = mean_over_seeds([estimate(0.2, 0.05)] * 3)  # the same questions thrice are no more
    assert alike.high - 0.2 == pytest.approx(1.95996 * 0.05, rel=1e-4)
    assert mean_over_seeds([estimate(0.2, 0.05)]) == estimate(0.2, 0.05)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.20, 0.21, 0.22), "shown"),
        ((-0.20, -0.21, -0.22), "reversed"),
        ((0.30, 0.02, 0.05), "not shown"),
        ((0.30,), "one seed"),
        ((0.2000, 0.2001), "not shown"),
    ],
)
def test_a_verdict_needs_three_seeds(values: tuple[float, ...], verdict: str) -> None:
    zero = estimate(0.0)
    by_seed = {s: Difference(zero, zero, estimate(v, 0.001)) for s, v in enumerate(values)}
    whole = mean_over_seeds([d.difference for d in by_seed.values()])
    assert Claim("grpo", "accuracy", "sft3", by_seed, whole).verdict == verdict


@pytest.mark.parametrize(
    ("own_seeds", "p_holm", "verdict"),
    [
        (3, 0.01, "shown"),
        (3, 0.06, "not shown"),
        (3, math.nan, "not shown"),
        (2, 0.01, "not shown"),
        (1, 0.01, "one seed"),
    ],
)
def test_a_search_has_seeds_of_its_own_and_holm_counts(
    own_seeds: int, p_holm: float, verdict: str
) -> None:
    zero, found = estimate(0.0), estimate(0.2, 0.001)
    claim = Claim(
        "depth", "accuracy of a", "b", {1: Difference(zero, zero, found)}, found, True, own_seeds, p_holm
    )  # fmt: skip
    assert claim.verdict == verdict


def test_claims_are_of_all_seeds_and_their_mean(root: Path) -> None:
    found = replication(root, runs(root), {})
    claims = {(c.model, c.against, c.what): c for c in found.claims}
    claim = claims["sft2", "sft1", "tool calling"]
    assert list(claim.by_seed) == [1, 2, 3]
    values = [
        after[key] - before[key]
        for seed in (1, 2, 3)
        for before, after in [
            tuple(_values(root / f"seed-{seed}", model) for model in ("sft1", "sft2"))
        ]
        for key in before.keys() & after.keys()
    ]
    assert claim.difference.value == pytest.approx(sum(values) / len(values))
    mean = claims["sft2", "sft1", "mean accuracy"]
    parts = [claims["sft2", "sft1", name.replace("_", " ")] for name in ACCURACY]
    for seed in (1, 2, 3):
        singles = [part.by_seed[seed].difference.value for part in parts]
        assert mean.by_seed[seed].difference.value == pytest.approx(sum(singles) / len(singles))
    assert any(c.model == "grpo" and c.what not in ("mean accuracy",) for c in found.claims)


def test_models_of_one_parent_are_compared_by_their_means(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = {"sft2": "sft1", "sft3": "sft1"}
    monkeypatch.setattr(RunFacts, "parent", lambda _, model: parents.get(model))
    found = replication(root, runs(root), {}).claims
    claims = [c for c in found if c.against == "sft2" and "budget" not in c.what]
    assert [(c.model, c.what) for c in claims] == [("sft3", "mean accuracy")]


def _values(run: Path, model: str) -> dict[str, float]:
    path = run / "evals" / model / "mini-tool_calling" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row["value"] for row in rows if row["value"] is not None}


def test_the_page_the_table_and_the_records_say_the_same(root: Path) -> None:
    found = replication(root, runs(root), {4: "not done: grpo"})
    write_replication(found)
    table = (root / "replication.md").read_text()
    page = (root / "report.html").read_text()
    records = json.loads((root / "replication.json").read_text())["claims"]
    assert table == markdown(found) and len(records) == len(found.claims)
    for claim in found.claims:
        assert claim.interval in table and claim.interval in page
    assert "Seed 4 is missing: not done: grpo" in table and "Seed 4 is missing" in page
    assert page.count("<svg") >= len(ACCURACY) and 'href="seed-2/report.html"' in page


def test_seeds_are_a_number_or_a_list() -> None:
    assert seeds_of("2", 17) == [17, 18] and seeds_of("1, 5,9", 17) == [1, 5, 9]
    for wrong in ("none", "0", "1,1", "2.5", "1,", "1000"):
        with pytest.raises(UserError, match="--seeds"):
            seeds_of(wrong, 1)


def replicate(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPLICATE), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_stages_that_were_not_asked_for_make_no_seed_late(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "seeds")
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / "seeds" / f"seed-{seed}" / "grpo")
    assert _report(tmp_path / "seeds", [1, 2, 3], ["pretrain", "sft3"]) == 0
    assert _report(tmp_path / "seeds", [1, 2, 3], ["pretrain", "grpo"]) == 1


def test_a_runs_name_is_a_name_whatever_yaml_reads_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def child(script: str, *words: str) -> int:
        asked.extend(words)
        return 0

    monkeypatch.setattr("scripts.replicate.child", child)
    args = Namespace(stages=[], recipe="r.yaml", overrides=[], take=[])
    _run_seed(args, tmp_path / "try #2 \u00fc\U0001f600", 1)
    raw: dict[str, object] = {}
    for word in asked:
        if word.startswith("runs_dir="):
            apply_override(raw, word)
    assert raw == {"runs_dir": str(tmp_path / "try #2 \u00fc\U0001f600")}


def test_the_command_reports_what_is_there_and_names_what_is_missing(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "miniature-seeds").symlink_to(root)
    recipe = ["--recipe", str(tiny.ROOT / "recipes/miniature.yaml"), "--report"]
    done = replicate(*recipe, "--seeds", "1,2,3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 seeds, " in done.stdout
    late = replicate(*recipe, "--seeds", "1,9", cwd=tmp_path)
    assert late.returncode == 1
    assert "Seed 9 is missing" in (root / "replication.md").read_text()
    none = replicate(*recipe, "--run", "other", cwd=tmp_path)
    assert none.returncode == 2 and none.stderr.count("\n") == 1


def test_a_mistake_in_the_recipe_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nstages: {a: {kind: nothing}}\n")
    done = replicate("--recipe", "r.yaml", "--seeds", "3", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("error:") == 1
