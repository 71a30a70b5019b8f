"""docs/replication.md: what each record says of the paper's claim, and that the page is the one that is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.paper_claims import (
    MISSING,
    Paper,
    keep_record,
    page,
    read_paper,
    read_records,
    save_picture,
)
from scripts import paper as script
from tests import tiny

DOCS = tiny.ROOT / "docs"


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "stderr": 0.1, "ci95": [low, high], "n": 60}


def claim(value: float, low: float, high: float, verdict: str, **more: Any) -> dict[str, Any]:
    seeds = {str(seed): estimate(value + step, low, high) for seed, step in ((1, -0.01), (2, 0.01))}
    return {
        "model": "grpo", "what": "held-out reward", "against": "", "verdict": verdict, "share": True,
        "levels": [0.25, 0.25 + value], "own_seeds": 0, "difference": estimate(value, low, high), "by_seed": seeds, **more,
    }  # fmt: skip


def paper(*shows: dict[str, Any]) -> Paper:
    row = {
        "paper": "Figure 9",
        "claim": "up",
        "figure": "none",
        "recipe": "r",
        "shows": list(shows),
    }
    return Paper.model_validate(
        {"head": "# Head", "recipes": {"r": {}}, "rows": [row], "foot": "Foot."}
    )


def records(*claims: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"r": {"commits": ["abc1234"], "claims": list(claims)}}


REWARD = {"model": "grpo", "what": "held-out reward", "direction": "up", "levels": True}


def test_a_row_says_what_the_record_found() -> None:
    text = page(paper(REWARD), records(claim(0.172, 0.038, 0.306, "shown")))
    row = next(line for line in text.splitlines() if line.startswith("| Figure 9"))
    assert row == (
        "| Figure 9 | up | none | held-out reward 25% to 42%, **+17.2 points** (+3.8 to +30.6; seeds +16.2, +18.2)"
        " | 2 (abc1234) | shown | `scripts/paper.py --only r` |"
    )


@pytest.mark.parametrize(
    ("direction", "verdict", "said"),
    [
        ("down", "reversed", "shown"), ("down", "shown", "reversed"), ("up", "reversed", "reversed"),
        ("down", "not shown", "not shown"), ("up", "one seed", "one seed"),
    ],
)  # fmt: skip
def test_the_papers_direction_decides_what_is_shown(
    direction: str, verdict: str, said: str
) -> None:
    found = records(claim(0.1, 0.0, 0.2, verdict))
    assert f"| {said} |" in page(paper(REWARD | {"direction": direction}), found)


def test_verdicts_that_differ_are_said_one_by_one_and_those_without_direction_not() -> None:
    math = {"model": "grpo", "what": "math", "against": "sft3", "direction": "down"}
    free = {"model": "grpo", "what": "math", "against": "sft3", "words": "of which math"}
    found = records(
        claim(0.172, 0.038, 0.306, "shown"),
        claim(-0.01, -0.1, 0.1, "not shown", what="math", against="sft3"),
    )
    text = page(paper(REWARD, math, free), found)
    assert "| held-out reward: shown; math: not shown |" in text
    assert "of which math -1.0 points" in text.replace("−", "-")


def test_without_a_record_a_row_says_what_was_known_and_a_missing_claim_is_said() -> None:
    whole = paper(REWARD)
    row = whole.rows[0].model_copy(update={"measured": "+7 once", "verdict": "one seed"})
    text = page(whole.model_copy(update={"rows": [row]}), {})
    assert "| +7 once |" in text and "| one seed |" in text
    text = page(paper(REWARD | {"what": "reward"}), records(claim(0.1, 0.0, 0.2, "shown")))
    assert f"| reward: {MISSING} |" in text and f"| {MISSING} |" in text


def test_a_search_whose_winner_is_another_is_read_from_the_other_side() -> None:
    """Wanted is 6 layers over 7; the record has 7 over 6, as 6 won."""
    wanted = {
        "model": "depth", "what": "accuracy of layers-6", "against": "layers-7", "words": "6 over 7",
        "direction": "down", "levels": True,
    }  # fmt: skip
    found = claim(
        -0.1, -0.3, -0.05, "reversed", model="depth", what="accuracy of layers-7",
        against="layers-6", levels=[0.6, 0.5], own_seeds=3,
    )  # fmt: skip
    text = page(paper(wanted), records(found)).replace("−", "-")
    assert "6 over 7 50% to 60%, **+10.0 points** (+5.0 to +30.0" in text
    assert "| 3 (abc1234) | reversed |" in text


def test_the_picture_has_a_panel_a_claim_with_a_direction(tmp_path: Path) -> None:
    found = records(claim(0.172, 0.038, 0.306, "shown"))
    assert save_picture(tmp_path / "p.svg", paper(REWARD), found)
    drawn = (tmp_path / "p.svg").read_text()
    assert "Figure 9: held-out reward" in drawn and ">shown<" in drawn and ">mean<" in drawn
    assert not save_picture(tmp_path / "q.svg", paper(REWARD), {})


def test_a_record_is_kept_with_a_claim_a_line(tmp_path: Path) -> None:
    record = records(claim(0.1, 0.0, 0.2, "shown"), claim(0.2, 0.1, 0.3, "shown"))["r"]
    (tmp_path / "found.json").write_text(json.dumps(record, indent=1))
    keep_record(tmp_path / "found.json", tmp_path / "kept.json")
    kept = (tmp_path / "kept.json").read_text()
    assert json.loads(kept) == record and kept.count("\n") == 4
    for one in record["claims"]:
        del one["by_seed"]["2"]
    (tmp_path / "found.json").write_text(json.dumps(record))
    assert not keep_record(tmp_path / "found.json", tmp_path / "kept.json")
    assert (tmp_path / "kept.json").read_text() == kept


def test_the_page_in_docs_is_what_its_rows_and_records_give() -> None:
    whole = read_paper(DOCS / "replication")
    found = read_records(DOCS / "replication", whole)
    assert (DOCS / "replication.md").read_text() == page(whole, found), (
        "run `python scripts/paper.py --report`"
    )
    assert MISSING not in page(whole, found)
    for name, how in whole.recipes.items():
        assert (tiny.ROOT / "recipes" / f"{name}.yaml").is_file()
        assert list(whole.recipes).index(name) > max(
            (list(whole.recipes).index(other) for other in how.take), default=-1
        )
    assert {row.recipe for row in whole.rows} <= {"", *whole.recipes}


def test_the_command_writes_the_page_and_names_a_wrong_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "replication").mkdir()
    text = json.dumps(paper(REWARD).model_dump())
    (tmp_path / "replication" / "rows.yaml").write_text(text)
    (tmp_path / "replication" / "r.json").write_text(
        json.dumps(records(claim(0.1, 0.05, 0.2, "shown"))["r"])
    )
    monkeypatch.setattr("sys.argv", ["paper.py", "--report", "--docs", str(tmp_path)])
    assert script.command(script.run, script.arguments, script.__doc__) == 0
    assert "**+10.0 points**" in (tmp_path / "replication.md").read_text()
    assert (tmp_path / "replication.png").is_file()
    monkeypatch.setattr("sys.argv", ["paper.py", "--only", "x", "--docs", str(tmp_path)])
    assert script.command(script.run, script.arguments, script.__doc__) == 2
    assert "unknown recipe 'x'" in capsys.readouterr().err
