"""Code digests: what a change of code repeats, and what it does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench import provenance
from workbench.provenance import closure, code_digest

TREE = {
    "sft/stage.py": "from data_mix.rows import read\n\ndef run(c):\n    from sft.late import more\n",
    "sft/late.py": 'WHERE = "reward.math:check"\n',
    "sft/other.py": "X = 1\n",
    "data_mix/rows.py": "from data_mix.filters import keep\nfrom workbench.progress import show\n",
    "data_mix/filters.py": "from reward import check\n",
    "reward/__init__.py": "",
    "reward/math.py": '"""Prose."""\nimport torch\nONE = 1  # a comment\n',
    "reward/child.py": "BOOT = 'import sys; from reward.math import main; main()'\n",
    "workbench/progress.py": "BAR = 20\n",
}


def _forget() -> None:
    for cached in (provenance.code_digest, provenance._imports, provenance._meaning):
        cached.cache_clear()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def test_the_closure_follows_late_imports_and_names_in_strings(tree: Path) -> None:
    whole = closure("sft.stage:run")
    assert whole == {
        "sft.stage", "sft.late", "data_mix.rows", "data_mix.filters", "reward", "reward.math"
    }  # fmt: skip
    assert closure("reward.child:run") == {"reward.child", "reward.math"}


def test_checkers_count_for_a_stage_that_only_filters_where_a_filter_runs_them(tree: Path) -> None:
    (tree / "sft/late.py").write_text("")
    _forget()
    assert "reward" not in closure("sft.stage:run", checks=False)
    assert "reward" in closure("sft.stage:run", checks=True)


@pytest.mark.parametrize(
    ("file", "before", "after", "changes"),
    [
        ("reward/math.py", "ONE = 1", "ONE = 2", True),
        ("data_mix/rows.py", "filters import keep", "filters import keep as k", True),
        ("reward/math.py", "Prose.", "Other prose.", False),
        ("reward/math.py", "  # a comment", "", False),
        ("sft/other.py", "1", "2", False),
        ("workbench/progress.py", "20", "30", False),
    ],
)
def test_what_changes_the_digest(
    tree: Path, file: str, before: str, after: str, changes: bool
) -> None:
    first = code_digest("sft.stage:run")
    text = (tree / file).read_text()
    assert before in text
    (tree / file).write_text(text.replace(before, after))
    _forget()
    assert (code_digest("sft.stage:run") != first) == changes


def test_the_checkers_behind_strings_count_for_evaluation_and_not_for_pretraining() -> None:
    evals, pretraining = closure("evals.stage:run"), closure("pretrain.stage:run", checks=False)
    assert {"reward.math_answer", "reward.math_worker", "reward.code"} <= evals
    assert not [name for name in pretraining if name.startswith("reward")]
    assert {"pretrain.train", "model.layers.scan", "data_mix.mixing"} <= pretraining
    assert not [name for name in pretraining if name.startswith(("sft", "rl", "evals"))]
