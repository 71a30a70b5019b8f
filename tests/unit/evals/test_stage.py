"""The evals stage: what becomes of samples that failed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evals.stage import run
from tests.judge_server import Said, judge_server
from workbench.errors import UserError
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.stage import StageContext

EASY = [{"prompt": f"{i} + 0?", "answer": i} for i in range(8)]
HARD = [{"prompt": f"{i} x 7?", "answer": 7 * i} for i in range(2)]


def _context(folder: Path, address: str, **more: Any) -> StageContext:
    for name, rows in (("easy", EASY), ("hard", HARD)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    stage = {
        "kind": "evals", "models": ["m"], **more,
        "benchmarks": [f"own:{folder}/easy.jsonl", f"own:{folder}/hard.jsonl"],
    }  # fmt: skip
    # A request that fails is not asked again for minutes.
    model = {"endpoint": address, "retries": 0}
    recipe = build({"name": "r", "models": {"m": model}, "stages": {"evals": stage}})
    place = RunDir(folder / "run")
    place.stage("evals").mkdir(parents=True, exist_ok=True)
    return StageContext("evals", recipe.stages["evals"], recipe, place, {})


class _Server:
    """Right on every sum; a product fails while `broken`."""

    def __init__(self) -> None:
        self.broken, self.asked = True, list[str]()

    def __call__(self, asked: dict[str, Any]) -> Said:
        text = str(asked["messages"][-1]["content"])
        if text.endswith("?") and text[0].isdigit():
            self.asked.append(text)
        if " x " in text and self.broken:
            return Said(status=400, body=b"no")
        return Said(str(eval(text.rstrip("?").replace("x", "*"))) if text[0].isdigit() else "hm")


def test_a_stage_with_many_failed_samples_fails_and_goes_on_with_them_alone(tmp_path: Path) -> None:
    say = _Server()
    with judge_server(say) as server:
        strict = {"max_failed_share": 0.1}
        with pytest.raises(
            UserError, match=r"2 of 10 samples failed \(max_failed_share is 10%.*again"
        ):
            run(_context(tmp_path, server.address, **strict))
        assert len(say.asked) == 10
        say.broken = False
        context = _context(tmp_path, server.address, **strict)
        run(context)
    assert sorted(say.asked[10:]) == ["0 x 7?", "1 x 7?"]
    assert context.outputs["accuracy"] == {"m": 1.0}


def test_a_mean_without_its_hardest_benchmark_is_none(tmp_path: Path) -> None:
    """Eight right and the two hard ones lost: it was 100%."""
    with judge_server(_Server()) as server:
        context = _context(tmp_path, server.address)
        run(context)  # a fifth is allowed
    assert math.isnan(context.outputs["accuracy"]["m"])
    assert "2 samples failed" in context.outputs["warnings"][0]
