"""The command `anneal`: the scripts' options, from any folder, without a changed module path."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ANNEAL = Path(sys.executable).with_name("anneal")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ANNEAL), *words], cwd=cwd, capture_output=True, text=True)


def test_it_plans_from_another_folder_what_the_script_plans(tmp_path: Path) -> None:
    words = ["--recipe", str(tiny.ROOT / "recipes/nano2-9b.yaml"), "--json"]
    done = run("plan", *words, cwd=tmp_path)
    script = [sys.executable, str(tiny.ROOT / "scripts/plan.py"), *words]
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == subprocess.run(script, cwd=tmp_path, capture_output=True, text=True).stdout
    )


@pytest.mark.parametrize("name", ["run", "plan", "sweep", "report", "doctor", "search-widths"])
def test_every_command_says_its_options(tmp_path: Path, name: str) -> None:
    done = run(name, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"anneal {name}" in done.stdout


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run("run", "all", "--recipe", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe file 'none.yaml' does not exist")
    assert list(tmp_path.iterdir()) == []


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    script = run("--print-completion", "bash", cwd=tmp_path).stdout
    (tmp_path / "complete.sh").write_text(script)
    ask = 'source complete.sh; COMP_WORDS=(anneal run --re); COMP_CWORD=2; _shtab_anneal; echo "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.split() == ["--recipe"], found


def test_nothing_edits_the_module_path() -> None:
    files = [*(tiny.ROOT / "scripts").glob("*.py"), *(tiny.ROOT / "benchmarks").glob("*.py")]
    assert len(files) > 12
    assert [f.name for f in files if "sys.path" in f.read_text(encoding="utf-8")] == []
