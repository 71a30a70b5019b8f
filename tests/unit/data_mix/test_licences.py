"""Step `licence`: headers, texts, the file beside, and that nothing is let through that cannot be told."""

import json
import random
from pathlib import Path

import pytest

from data_mix.curate.config import PERMISSIVE
from data_mix.curate.licences import Licences, named_in, spdx_allowed
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


def test_who_gives_no_warranty_may_have_a_name_and_further_conditions_still_forbid() -> None:
    """ISC's disclaimer, by firms of one and of several words; 80% of its words would not be left of it."""
    text = (
        'Use this freely. It is given "as is" and {who} disclaims all warranties of {mit}. In no event '
        "shall {who} be liable for any loss."
    )
    short = " ".join(WORDS[:12])
    known = Licences({"ISC": text.format(who="the author", mit=short)})
    firm = text.format(who="Some Larger Firm of Nowhere, Inc", mit=short)
    assert [found.id for found in known.of_text(firm)] == ["ISC"]
    barred = firm.replace(
        "In no event", "Whoever sells it must pay a tenth of it all to us. In no event"
    )
    assert [found.id for found in known.of_text(barred)] != ["ISC"]


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


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("under the GNU Lesser General Public License", ["copyleft or unknown, by name"]),
        ("derived from re, licensed under CNRI's Python 1.6 license", ["copyleft or unknown, by name"]),
        ("All advertising materials mentioning features", ["copyleft or unknown, by name"]),
        ("MIT license, and GPL-2 for parts", ["copyleft or unknown, by name"]),
        ("a general, public function; import matplotlib as mpl", []),
        ("Licensed under the Apache License, Version 2.0 (the", ["Apache-2.0"]),
        ("Released under the terms of the MIT License.", ["MIT"]),
        ("Distributed under the Boost Software License, Version 1.0", ["BSL-1.0"]),
        ("under the 3-clause BSD license", ["BSD-3-Clause"]),
        ("GPL-compatible, whatever that is", []),
    ],
)  # fmt: skip
def test_words_name_licences_and_a_forbidden_one_outweighs_the_others(said: str, named: list[str]) -> None:  # fmt: skip
    assert named_in(said) == named


def ids(text: str, texts: dict[str, str] = TEXTS) -> list[str]:
    return [found.id for found in Licences(texts).of_text(text)]


def test_what_a_found_licence_leaves_over_can_forbid_and_not_allow() -> None:
    assert ids(f"{MIT}\nParts are under the GNU GPL.") == ["MIT", "copyleft or unknown, by name"]
    assert ids(f"{MIT}\nParts are under the Apache License, Version 2.0, apache.org/licenses/LICENSE-2.0") == ["MIT"]  # fmt: skip
    middle = MIT.split()
    clause = "if redistributed the whole must include this text and the name of its maker"
    changed = " ".join([*middle[:100], clause, *middle[100:]])
    assert ids(changed) == ["MIT", "copyleft or unknown, by name"]
    usual = "in no event shall the maker or his heirs be held liable for any of it"
    assert ids(" ".join([*middle[:100], usual, *middle[100:]])) == ["MIT"]


def test_parts_of_two_licences_are_not_a_third_and_an_appendix_may_be_missing() -> None:
    one, other = (text.split() for text in (MIT, GPL))
    third = " ".join([*one[:90], *other[110:]])
    texts = {**TEXTS, "Third": third}
    far = " ".join(_RNG.choices(WORDS, k=400))
    assert sorted(ids(f"{MIT}\n{far}\n{GPL}", texts)) == ["GPL-3.0-only", "MIT"]
    assert ids(third, texts) == ["Third"]
    how = " ".join(_RNG.choices(WORDS, k=60))
    # Near is Whole with a changed part, and no appendix: a text without the appendix is Whole all the same.
    near = " ".join([*one[:170], *_RNG.choices(WORDS, k=30)])
    texts = {"Whole": f"{MIT}\nEND OF TERMS AND CONDITIONS\n{how}", "Near": near}
    assert (ids(MIT, texts), ids(near, texts)) == (["Whole"], ["Near"])


def test_files_are_kept_by_header_then_text_then_the_nearest_licence(tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(
        json.dumps({k: {"licenseText": v} for k, v in TEXTS.items()})
    )
    code = "def f():\n    return 1\n"
    files = {
        "a/LICENSE": MIT, "a/plain.py": code, "a/deep/er/plain.py": code,
        "a/header.py": f"# SPDX-License-Identifier: GPL-3.0-only\n{code}",
        "a/gnu.py": f"# GNU General Public License\n{code}", "a/own.py": f'"""{GPL}"""\n{code}',
        "b/sidecar.py": code, "b/sidecar.py.license": "SPDX-License-Identifier: ISC",
        "b/COPYING.txt": "Ask my lawyer first.", "b/plain.py": code,
        "b/spdx.py": f"/* SPDX-License-Identifier: MIT */\n{code}",
        "b/two.py": f"# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: ISC OR GPL-3.0-only\n{code}",
        "b/gnu.py": f"# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: GPL-3.0-only\n{code}",
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
    assert kept == {
        "a/plain.py": "MIT",
        "a/deep/er/plain.py": "MIT",
        "b/sidecar.py": "ISC",
        "b/spdx.py": "MIT",
        "b/two.py": "MIT AND (ISC OR GPL-3.0-only)",
    }
    removed = data_of(tmp_path / "run", "code")["removed"]
    # c: each of two files counts. b/plain.py: a file of which nothing can be told may hold anything.
    assert removed == {"licence: not allowed": 6}
