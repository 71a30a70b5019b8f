"""Lifts of the preference stages: every measured one is in the table, in the head and right by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports import write_report
from reports.differences import stage_differences
from reports.read import read_run
from tests.fake_run import write_fake_run
from workbench.panels import PointsPanel
from workbench.records import UNKNOWN, Difference, Estimate, to_json


def _part(value: float, n: int, half: float = 0.04) -> Estimate:
    return Estimate(value, half / 2, (value - half, value + half), n)


def _found(before: float, after: float, what: str, n: int = 200, **about: Any) -> Difference:
    half = about.pop("half", 0.04)
    change = _part(after - before, n, half)
    return Difference(_part(before, n), _part(after, n), change, what, **about)


_REWARD = "held-out reward"
_PICKED: dict[str, Any] = {"n": 60, "note": "the questions that picked alpha"}
_PANELS = {
    "dpo": PointsPanel("Success while playing, before each round's training", [0.0, 1.0],
                       [replace(UNKNOWN, value=v) for v in (0.3, 0.41)],
                       x_names=["round 1", "round 2"], whole=True),
    "merge": PointsPanel("accuracy by alpha", [0.0, 0.4, 1.0],
                         [_part(v, 60) for v in (0.5, 0.6, 0.55)], "alpha"),
}  # fmt: skip
_STAGES = {
    "dpo": ("dpo", [_found(0.30, 0.42, "held-out success", failed=3)]),
    "rm": ("reward_model", [_found(0.5, 0.71, "better reply of a held-out pair scores higher", 300,
                                   unit="pairs of 90 prompts", problems=90)]),
    "rlhf": ("grpo", [_found(-1.25, 0.5, "reward model's score", share=False),
                      _found(0.2, 0.1, "checker on the same replies")]),
    "judged": ("grpo", [_found(0.5, 0.52, "judge's win rate")]),
    "mixed": ("grpo", [_found(1.5, 2.5, _REWARD, share=False, problems=69)]),
    "kd": ("distill", [_found(0.52, 0.81, "held-out tokens whose likeliest is that of sft3", 32,
                              unit="rows")]),
    "merge": ("merge", [_found(0.5, 0.6, "accuracy of the picked alpha, from dpo", **_PICKED),
                        _found(0.55, 0.6, "accuracy of the picked alpha, from rlhf", half=0.1, **_PICKED)]),
}  # fmt: skip


def _run(root: Path) -> Path:
    write_fake_run(root, n=10)
    recipe = json.loads((root / "recipe.json").read_text())
    manifest = json.loads((root / "grpo" / "manifest.json").read_text())
    for name, (kind, found) in _STAGES.items():
        recipe["stages"][name] = {"needs": ["sft3"], "kind": kind}
        (root / name).mkdir()
        outputs = {"differences": to_json(found)}
        if name in _PANELS:
            outputs["panels"] = [to_json(_PANELS[name])]
        own = manifest | {"stage": name, "kind": kind, "outputs": outputs}
        (root / name / "manifest.json").write_text(json.dumps(own))
    (root / "recipe.json").write_text(json.dumps(recipe))
    return root


def test_every_stage_has_its_sentence(tmp_path: Path) -> None:
    said = write_report(_run(tmp_path / "run"))
    for sentence in (
        "grpo: held-out reward 43% → 70%, +27.0 points (95% interval +23.0 to +31.0, n = 300).",
        "dpo: held-out success 30% → 42%, +12.0 points (95% interval +8.0 to +16.0, n = 200; 3 failed "
        "and are left out).",
        "kd: held-out tokens whose likeliest is that of sft3 52% → 81%, +29.0 points (95% interval +25.0 "
        "to +33.0, n = 32 rows).",
        "rm: better reply of a held-out pair scores higher 50% → 71%, +21.0 points (95% interval +17.0 "
        "to +25.0, n = 300 pairs of 90 prompts).",
        "rlhf: reward model's score -1.250 → 0.500, +1.750 (95% interval +1.710 to +1.790, n = 200).",
        "rlhf: checker on the same replies 20% → 10%, −10.0 points (95% interval −14.0 to −6.0, n = 200).",
        "judged: judge's win rate 50% → 52%, +2.0 points (95% interval −2.0 to +6.0, n = 200).",
        "mixed: held-out reward 1.500 → 2.500, +1.000 (95% interval +0.960 to +1.040, n = 200 questions "
        "on 69 problems).",
        "merge: accuracy of the picked alpha, from dpo 50% → 60%, +10.0 points (95% interval +6.0 to +14.0, "
        "n = 60; the questions that picked alpha).",
        "merge: accuracy of the picked alpha, from rlhf 55% → 60%, +5.0 points (95% interval −5.0 to +15.0, "
        "n = 60; the questions that picked alpha).",
    ):
        assert sentence in said, sentence


def test_the_table_marks_what_is_clear_of_zero(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    marks = {
        (x.stage, x.found.what.split(" at ")[0]): x.mark for x in stage_differences(read_run(run))
    }
    assert (
        marks["dpo", "held-out success"]
        == marks["rm", "better reply of a held-out pair scores higher"]
        == "up"
    )
    assert marks["rlhf", "checker on the same replies"] == "down"
    assert marks["judged", "judge's win rate"] == ""
    write_report(run)
    page = (run / "report.html").read_text()
    assert "Success while playing" in page and "accuracy by alpha" in page
    assert page.count("<th>rlhf</th>") == 2
    assert "+12.0 (+8.0 to +16.0) ▲" in page and "−10.0 (−14.0 to −6.0) ▼" in page


def test_an_interval_that_does_not_exist_is_no_mistake(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    path = run / "dpo" / "manifest.json"
    manifest = json.loads(path.read_text())
    own = manifest["outputs"]["differences"][0]
    own["difference"] = {"value": 0.1, "stderr": None, "ci95": [None, None], "n": 1}
    path.write_text(json.dumps(manifest))
    (found,) = [x for x in stage_differences(read_run(run)) if x.stage == "dpo"]
    assert found.mark == "" and found.change() == ("+10.0", "no interval")
    assert "dpo: held-out success 30% → 42%, +10.0 points (95% interval no interval" not in (
        said := write_report(run)
    )
    assert "+10.0 points (no interval, n = 1" in said


def test_a_difference_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A renamed key must not empty the report in silence."""
    run = _run(tmp_path / "run")
    path = run / "dpo" / "manifest.json"
    path.write_text(path.read_text().replace('"difference":', '"lift":'))
    facts = read_run(run)
    assert any("dpo/manifest.json" in line and "difference" in line for line in facts.problems)
    assert (
        "Files that could not be read" in (write_report(run), (run / "report.html").read_text())[1]
    )
    # Nor may a stage that has none where its kind measures one.
    path.write_text(path.read_text().replace('"differences":', '"held_out":'))
    assert any("`differences`" in line and "dpo" in line for line in read_run(run).problems)
