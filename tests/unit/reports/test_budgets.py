"""The report's budget curves, from the samples of a made-up run."""

import json
from pathlib import Path
from typing import Any

import pytest

from budget.curves import budget_contrasts, budget_curves
from reports import write_report
from reports.budgets import MEASURES, budget_markdown, budget_rows, contrast_grids
from reports.picture import save_budgets
from reports.read import read_run
from tests.fake_run import write_fake_run
from workbench.errors import UserError
from workbench.records import to_json


def test_every_measure_of_both_models_is_on_the_page(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=40)
    (row,) = budget_rows(read_run(run))
    assert (row.benchmark, list(row.curves)) == ("math", ["sft2", "sft3"])
    assert row.n == "39"  # one sample failed
    assert [p.budget for p in row.curves["sft3"]] == [8, 16, 32, None]
    assert [panel.title for panel in row.panels] == [m.title for m in MEASURES]
    # Two models x four budgets: a dot each, in the wide and in the narrow picture.
    for panel in row.panels[:5]:
        assert panel.svg.count("<circle") == 2 * 2 * 4
    # Without a limit there is nothing to keep.
    lines = (run / "evals" / "sft2" / "mini-math@8" / "samples.jsonl").read_text().splitlines()
    values = [json.loads(line)["value"] for line in lines]
    known = [value for value in values if value is not None]
    expected = sum(known) / len(known)
    assert row.curves["sft2"][0].accuracy.value == pytest.approx(expected)
    assert f"report, curves by budget: {run / 'report.html'}" in write_report(run)
    page = (run / "report.html").read_text()
    for measure in MEASURES:
        assert f"<figcaption>{measure.title}" in page
    assert "exactly one" in page


def test_a_budget_is_compared_on_the_questions_that_all_budgets_have(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=20)
    path = run / "evals" / "sft2" / "mini-math@8" / "samples.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:12]) + "\n")
    curves = {c.model: c.points for c in budget_curves(run / "evals")}
    assert [point.questions for point in curves["sft2"]] == [12] * 4
    assert [point.questions for point in curves["sft3"]] == [19] * 4  # one sample failed


def test_a_picture_for_the_docs_and_its_absence(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=20)
    save_budgets(run, tmp_path / "budgets.png")
    picture = (tmp_path / "budgets.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000
    (run / "evals" / "budget_curves.json").unlink()
    assert budget_rows(read_run(run)) == []
    with pytest.raises(UserError, match="no model of run 'run' was evaluated under"):
        save_budgets(run, tmp_path / "none.png")


def test_two_models_are_set_against_each_other_question_by_question(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=30)
    rows = {m: _rows(run / "evals" / m / "mini-math@8" / "samples.jsonl") for m in ("sft2", "sft3")}
    for row in rows["sft3"].values():
        row["well_formed"] = False
    lines = [json.dumps(row) + "\n" for row in rows["sft3"].values()]
    (run / "evals" / "sft3" / "mini-math@8" / "samples.jsonl").write_text("".join(lines))
    contrasts = budget_contrasts(run / "evals", ["sft2", "sft3"])
    (run / "evals" / "budget_contrasts.json").write_text(json.dumps(to_json(contrasts)))
    facts = read_run(run)
    (grid,) = contrast_grids(facts)
    assert grid.title == "math: sft3 minus sft2"
    assert [line[0] for line in grid.rows] == ["8", "16", "32", "∞"]
    before, after = rows["sft2"], rows["sft3"]
    shared = [q for q in before if before[q]["value"] is not None and after[q]["value"] is not None]
    gained = sum(after[q]["value"] - before[q]["value"] for q in shared) / len(shared)
    formed = sum(before[q]["well_formed"] for q in shared) / len(shared)
    longer = sum(after[q]["tokens"]["answer"] - before[q]["tokens"]["answer"] for q in shared)
    for cell, value in zip(
        grid.rows[0][1:4], (100 * gained, -100 * formed, longer / len(shared)), strict=True
    ):
        assert cell.startswith(f"{value:+.1f} (")
    assert grid.rows[0][-1] == str(len(shared))
    text = budget_markdown(facts)
    assert f"| {' | '.join(grid.rows[0])} |" in text
    assert text.count("| sft2 | ") == 4
    write_report(run)
    assert "Model against model" in (run / "report.html").read_text()


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {str(row["id"]): row for row in found}


def test_without_budgets_there_is_no_table(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=5, budgets=False)
    assert contrast_grids(read_run(run)) == []
    with pytest.raises(UserError, match="no model of run 'run' was evaluated under"):
        budget_markdown(read_run(run))
    (run / "evals" / "budget_contrasts.json").write_text('[{"before": 1}]')
    facts = read_run(run)
    assert contrast_grids(facts) == []
    assert "budget_contrasts.json" in facts.problems[0]


def test_a_torn_file_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=5)
    (run / "evals" / "budget_curves.json").write_text('[{"model":')
    facts = read_run(run)
    assert budget_rows(facts) == []
    assert "budget_curves.json" in facts.problems[0]


def test_curves_of_different_questions_say_so_and_one_of_two_checkpoints_is_left_out(
    tmp_path: Path,
) -> None:
    run = write_fake_run(tmp_path / "run", n=40)
    path = run / "evals" / "budget_curves.json"
    curves = json.loads(path.read_text())
    for curve in curves:
        for point in curve["points"] if curve["model"] == "sft2" else ():
            point["questions"] = 10
    path.write_text(json.dumps(curves))
    (row,) = budget_rows(read_run(run))
    assert row.n == "10 (sft2), 39 (sft3)"
    assert contrast_grids(read_run(run))
    result = run / "evals" / "sft3" / "mini-math@8" / "results.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"completion": "an-earlier-one"}))
    (row,) = budget_rows(read_run(run))
    assert (list(row.curves), row.n) == (["sft2"], "10")
    assert contrast_grids(read_run(run)) == []
