"""Step `licence`: headers, texts, the file beside, and that nothing is let through that cannot be told."""

import json
import random
from pathlib import Path

import pytest

from data_mix.curate.config import PERMISSIVE
from data_mix.curate.licences import Licences, says_copyleft, spdx_allowed
from tests.data_stages import data_of, rows_of, run_stages

_RNG = random.Random(0)
WORDS = [f"word{n}" for n in range(400)]
MIT, GPL, EVIL = (" ".join(_RNG.choices(WORDS, k=200)) for _ in range(3))
# As MIT, with one clause more: what SPDX's JSON licence is to MIT.
EVIL = f"{MIT} and this shall be used for good and for nothing that anyone on earth would call evil"
TEXTS = {"MIT": MIT, "GPL-3.0-only": GPL, "JSON": EVIL}


def test_each_part_of_a_file_counts_and_the_longest_that_is_whole_is_meant() -> None:
    known = Licences(TEXTS)
    assert [found.id for found in known.of_text(f"Copyright me.\n{MIT}\nThe end.")] == ["MIT"]
    assert [found.id for found in known.of_text(EVIL)] == ["JSON"]
    assert {found.id for found in known.of_text(f"{MIT}\n\nParts:\n{GPL}")} == {
        "MIT",
        "GPL-3.0-only",
    }
    assert known.of_text("Do what you want.") == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True), ("GPL-3.0-only", False), ("MIT OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True), ("(MIT OR GPL-3.0-only) AND ISC", False), ("", False),
        ("(MIT AND ISC)", True), ("mit", False),
    ],
)  # fmt: skip
def test_expressions(expression: str, allowed: bool) -> None:
    assert spdx_allowed(expression, PERMISSIVE) is allowed


def test_a_copyleft_header_outweighs_the_file_beside_it() -> None:
    assert says_copyleft("# under the GNU Lesser General Public License")
    assert not says_copyleft("# a general, public function")


def test_files_are_kept_by_header_then_text_then_the_nearest_licence(tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(
        json.dumps({k: {"licenseText": v} for k, v in TEXTS.items()})
    )
    code = "def f():\n    return 1\n"
    files = {
        "a/LICENSE": MIT, "a/plain.py": code, "a/deep/er/plain.py": code,
        "a/header.py": f"# SPDX-License-Identifier: GPL-3.0-only\n{code}",
        "a/gnu.py": f"# GNU General Public License\n{code}", "a/own.py": f'"""{GPL}"""\n{code}',
        "b/COPYING.txt": "Ask my lawyer first.", "b/plain.py": code,
        "b/spdx.py": f"/* SPDX-License-Identifier: MIT */\n{code}",
        "c/LICENSE-MIT": MIT, "c/LICENSE.gpl": GPL, "c/plain.py": code,
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    source = {"type": "files", "path": str(tmp_path / "code/**/*.py")}
    step = {"type": "licence", "texts": str(tmp_path / "texts.json")}
    run_stages(tmp_path / "run", {"code": {"kind": "curate", "input": source, "steps": [step]}})
    kept = {str(Path(row["path"]).relative_to(tmp_path / "code")): row["license"] for row in rows_of(tmp_path / "run", "code")}  # fmt: skip
    assert kept == {"a/plain.py": "MIT", "a/deep/er/plain.py": "MIT", "b/spdx.py": "MIT"}
    removed = data_of(tmp_path / "run", "code")["removed"]
    # c: each of two files counts. b/plain.py: a file of which nothing can be told may hold anything.
    assert removed == {"licence: not allowed": 5}
