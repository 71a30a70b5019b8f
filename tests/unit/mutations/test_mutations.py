"""The list fits the code, and the tool tells a line that a test sees from one that none does."""

import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutations.__main__ import main
from tests.mutations.listed import MUTATIONS
from tests.mutations.mutation import Mutation, stale

ROOT = Path(__file__).resolve().parents[3]


def test_every_entry_fits_the_code() -> None:
    """A line that moved or changed takes its entry along; this is where it is told."""
    assert not stale(MUTATIONS, ROOT), "\n".join(stale(MUTATIONS, ROOT))


def test_every_claim_of_the_readme_is_broken_by_some_entry() -> None:
    """The rows of its table of what goes wrong elsewhere: one of the tests named as proof must see an
    entry with that claim."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.partition("| what goes wrong |")[2].partition("\n\n")[0].splitlines()[2:]
    proofs = {}
    for row in rows:
        cells = row.split("|")
        proofs[cells[1].strip()] = re.findall(r"`(tests/[^`]+)`", cells[3])
    assert len(proofs) >= 6
    assert {mutation.claim for mutation in MUTATIONS if mutation.claim} == proofs.keys()
    for claim, named in proofs.items():
        seen = [test for m in MUTATIONS if m.claim == claim for test in m.tests]
        assert any(test.startswith(path) for test in seen for path in named), claim


SUM = Mutation("sum", "maths.py", "a + b", "a - b", "sums are wrong", ("tests/test_maths.py",))
HARMLESS = replace(SUM, name="harmless", old='"""Adds."""', new='"""Adds two."""')
UNSEEN = replace(SUM, name="unseen", old="3 * a", new="4 * a")
ENDLESS = replace(SUM, name="endless", new="[a for a in iter(int, 1)]", limit_s=3.0)
UNREADABLE = replace(SUM, name="unreadable", old="def add", new="def plus")

MATHS = '''\
def add(a, b):
    """Adds."""
    return a + b


def treble(a):
    return 3 * a
'''
TESTS = """\
from maths import add


def test_nothing():
    assert True


def test_add():
    assert add(2, 3) == 5
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two functions, one of them tested."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "maths.py").write_text(MATHS)
    (root / "tests" / "test_maths.py").write_text(TESTS)
    (root / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\naddopts = "--import-mode=importlib"\n'
    )
    (root / ".gitignore").write_text(".cache/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def run(project: Path, *mutations: Mutation, options: tuple[str, ...] = ()) -> int:
    return main(["--jobs", "1", *options], mutations=mutations, root=project, preloaded=())


def test_a_break_is_caught_by_its_test_and_the_tree_is_left_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project.parent / "table.md"
    assert run(project, SUM, options=("--table", str(out))) == 0
    told = capsys.readouterr().out
    assert "caught" in told and "1 of 1 broken lines caught" in told
    assert out.read_text().splitlines()[-1] == (
        "| `maths.py` sum | sums are wrong | `tests/test_maths.py::test_add` |"
    )
    assert (project / "maths.py").read_text() == MATHS


def test_what_no_test_sees_survives(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(project, SUM, HARMLESS, UNSEEN) == 1
    told = capsys.readouterr().out
    assert [line.split()[:2] for line in told.splitlines()[:3]] == [
        ["caught", "sum"],
        ["survived", "harmless"],
        ["survived", "unseen"],
    ]
    assert told.endswith("1 of 3 broken lines caught\n  harmless\n  unseen\n")


def test_a_hang_counts_only_where_it_is_declared(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert run(project, ENDLESS) == 1
    assert capsys.readouterr().out.startswith("timeout    endless")
    assert run(project, replace(ENDLESS, hangs=True)) == 0
    assert time.monotonic() - began < 60


def test_what_cannot_be_run_proves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests that cannot even be read, or that fail on the unbroken tree."""
    assert run(project, UNREADABLE) == 1
    assert capsys.readouterr().out.startswith("unusable   unreadable")
    (project / "tests" / "test_maths.py").write_text(TESTS.replace("== 5", "== 6"))
    assert run(project, SUM) == 1
    told = capsys.readouterr().out
    assert told.startswith("unusable   sum")
    assert "fail on the unbroken tree: tests/test_maths.py::test_add" in told


def test_an_entry_that_fits_no_longer_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice, gone = replace(SUM, old="return"), replace(SUM, name="gone", old="a * b")
    broken = replace(SUM, name="broken", new="a +")
    untested = replace(SUM, name="untested", tests=("tests/test_gone.py",))
    assert run(project, twice, gone, broken, untested) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "stale      sum: its text occurs 2 times in maths.py, not once: 'return'"
    assert told[1].startswith("stale      gone: its text occurs 0 times")
    assert told[2].startswith("stale      broken: the broken maths.py is not Python")
    assert told[3] == "stale      untested: there is no test file tests/test_gone.py"


def test_what_is_known_is_not_run_again_until_something_changes(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, SUM, UNSEEN) == 1
    kept = project / ".cache" / "mutations.jsonl"
    lines = kept.read_text().splitlines()
    assert len(lines) == 3  # the unbroken tests, and two results
    assert run(project, SUM) == 0
    assert kept.read_text().splitlines() == lines
    tests = project / "tests" / "test_maths.py"
    tests.write_text(
        TESTS
        + "\n\ndef test_treble():\n    from maths import treble\n\n    assert treble(2) == 6\n"
    )
    capsys.readouterr()
    assert run(project, SUM, UNSEEN) == 0
    assert capsys.readouterr().out.count("caught ") == 2


def test_names_are_checked_and_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(project, SUM, UNSEEN, options=("--only", "summ")) == 2
    assert capsys.readouterr().err == "error: no mutation 'summ'; --list shows their names\n"
    assert run(project, SUM, UNSEEN, options=("--list", "--only", "unseen")) == 0
    assert capsys.readouterr().out.split()[0] == "unseen"
