"""Lifts of the preference stages: every measured one is in the table, in the head and right by hand."""

import json
from pathlib import Path
from typing import Any

from tests.fake_run import write_fake_run
from workbench.report import write_report
from workbench.report.lifts import stage_lifts
from workbench.report.read import read_run


def _part(value: float, half: float = 0.04) -> dict[str, Any]:
    return {"value": value, "stderr": half / 2, "ci95": [value - half, value + half]}


def _held_out(before: float, after: float, half: float = 0.04) -> dict[str, Any]:
    parts = {"before": before, "after": after, "lift": after - before}
    return {k: _part(v, half) for k, v in parts.items()} | {"n": 200, "failed": 0}


def _outputs() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Stage -> (its configuration, its outputs)."""
    sweep = [
        {"alpha": a, "score": s, "n": 60, "ci95": [s - 0.1, s + 0.1]}
        for a, s in ((0.0, 0.5), (0.4, 0.6), (1.0, 0.55))
    ]
    pairs = {"pairs": 300, "prompts": 90}
    return {
        "dpo": ({"kind": "dpo"}, {
            "held_out": _held_out(0.30, 0.42) | {"failed": 3},
            "rounds": [{"success": 0.3}, {"success": 0.41}],
        }),
        "rm": ({"kind": "reward_model"}, {"pair_accuracy": {
            "untrained": _part(0.5) | pairs, "held_out": _part(0.71) | pairs,
            "lift": _part(0.21) | pairs,
        }}),
        "rlhf": ({"kind": "grpo", "reward": {"kind": "model", "model": "rm"}}, {
            "held_out": _held_out(-1.25, 0.5), "held_out_checker": _held_out(0.2, 0.1),
        }),
        "judged": ({"kind": "grpo", "reward": {"kind": "judge"}}, {"held_out": _held_out(0.5, 0.52)}),
        "mixed": ({"kind": "grpo", "reward": {"kind": "composite", "parts": {
            "rules": {"kind": "checker"}, "taste": {"kind": "model", "model": "rm"},
        }}}, {"held_out": _held_out(1.5, 2.5) | {"problems": 69}}),
        "kd": ({"kind": "distill", "teacher": "sft3"}, {
            "distance": {"n": 32, "agreement": {
                k: _part(v) for k, v in (("before", 0.52), ("after", 0.81), ("lift", 0.29))
            }},
        }),
        "merge": ({"kind": "merge"}, {
            "alpha": 0.4, "metric": "accuracy", "sweep": sweep,
            "models": {"alpha 0": "dpo", "alpha 1": "rlhf"},
            "lift_against": {"alpha 0": _part(0.1) | {"n": 60}, "alpha 1": _part(0.05, 0.1) | {"n": 60}},
        }),
    }  # fmt: skip


def _run(root: Path) -> Path:
    write_fake_run(root, n=10)
    recipe = json.loads((root / "recipe.json").read_text())
    manifest = json.loads((root / "grpo" / "manifest.json").read_text())
    for name, (config, outputs) in _outputs().items():
        recipe["stages"][name] = {"needs": ["sft3"], **config}
        (root / name).mkdir()
        own = manifest | {"stage": name, "kind": config["kind"], "outputs": outputs}
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
        "merge: accuracy at alpha 0.4, from dpo 50% → 60%, +10.0 points (95% interval +6.0 to +14.0, "
        "n = 60; the questions that picked alpha).",
        "merge: accuracy at alpha 0.4, from rlhf 55% → 60%, +5.0 points (95% interval −5.0 to +15.0, "
        "n = 60; the questions that picked alpha).",
    ):
        assert sentence in said, sentence


def test_the_table_marks_what_is_clear_of_zero(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    marks = {(x.stage, x.what.split(" at ")[0]): x.mark for x in stage_lifts(read_run(run))}
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
    manifest["outputs"]["held_out"]["lift"] = {"value": 0.1, "stderr": None, "ci95": [None, None]}
    path.write_text(json.dumps(manifest))
    (lift,) = [x for x in stage_lifts(read_run(run)) if x.stage == "dpo"]
    assert lift.mark == "" and "nan" in lift.change()
    write_report(run)
