"""`anneal kinds` and `anneal new`: what is told is what can be run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports.kinds import details, everything, overview, smallest_recipe
from reports.new_recipe import GOALS, RecipeAnswers, ask_all, write_new
from workbench import registry
from workbench.errors import UserError
from workbench.recipe import build, load
from workbench.registry import Kind


def test_every_stage_kind_says_what_it_takes_and_has_a_recipe_that_is_one() -> None:
    for name in registry.kinds():
        lines = details(name)
        assert any(line.startswith("reads: ") for line in lines)
        text = smallest_recipe(name)
        assert text is not None, f"no shipped recipe uses {name}"
        recipe = build(yaml.safe_load(text))
        assert name in {stage.kind for stage in recipe.stages.values()}
        assert all(f"  {line}" in lines for line in text.splitlines())


def test_a_smallest_recipe_has_no_stage_that_nobody_needs() -> None:
    recipe = build(yaml.safe_load(str(smallest_recipe("sft"))))
    needed = {need for stage in recipe.stages.values() for need in stage.needs}
    ends = [name for name in recipe.stages if name not in needed]
    assert [recipe.stages[name].kind for name in ends] == ["sft"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("sft", ["reads: checkpoint, data", "writes: checkpoint"]),
        ("tokenizer", ["reads: data", "writes: tokenizer"]),
        ("evals", ["reads: checkpoint", "writes: results"]),
        ("merge", ["reads: checkpoint", "writes: checkpoint"]),
        ("choice", ["  check: {kind: choice, reference: ...}"]),
        ("jsonl", ["  source: {type: jsonl, path: ...}"]),
        ("humaneval", ["  evals: {kind: evals, needs: [STAGE], benchmarks: [humaneval]}"]),
    ],
)
def test_what_is_told_of_one(name: str, lines: list[str]) -> None:
    told = details(name)
    assert all(line in told for line in lines)


def test_a_plug_in_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Kind(
        config="sft.config:SftConfig", run="m:run", plan="m:plan", about="mine alone", version=1,
        makes=("adapter",),
    )  # fmt: skip
    kinds = {**registry.kinds(), "mine": mine}
    everything.cache_clear()
    monkeypatch.setattr(registry, "kinds", lambda: kinds)
    assert any("mine alone" in line for line in overview())
    assert "writes: adapter" in details("mine")
    assert any(
        "kind: mine" in line for line in details("mine")
    )  # its required keys, for want of a recipe
    everything.cache_clear()


def test_an_unknown_name_is_one_line() -> None:
    with pytest.raises(UserError, match="did you mean 'grpo'"):
        details("grop")


def _rows(path: Path, count: int) -> str:
    rows = [
        {
            "id": f"r{n}", "domain": "d", "check": {"kind": "math", "reference": str(2 * n)},
            "messages": [{"role": "user", "content": f"2 x {n}?"}, {"role": "assistant", "content": str(2 * n)}],
        }
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("model", ["miniature", "org/Some-1B"])
def test_what_new_writes_is_planned_as_it_is(tmp_path: Path, goal: str, model: str) -> None:
    data = _rows(tmp_path / "rows.jsonl", 40)
    if goal in ("tools",):
        data = ""
    if goal == "evals":
        Path(data).write_text('{"prompt": "2 x 3?", "answer": 6}\n')
    lines = write_new(RecipeAnswers(goal, model, data), str(tmp_path / "mine.yaml"))
    assert lines[0] == f"wrote {tmp_path / 'mine.yaml'}"
    recipe = load(tmp_path / "mine.yaml")
    assert {"sft": "sft", "grpo": "grpo", "tools": "dpo", "evals": "evals"}[goal] in {
        stage.kind for stage in recipe.stages.values()
    }
    if goal == "grpo":
        stage: Any = next(s for s in recipe.stages.values() if s.kind == "grpo")
        parts = [
            Path(source.path).read_text().splitlines() for source in (stage.prompts, stage.held_out)
        ]
        # A tenth is held out, and nothing of it is trained on.
        assert [len(part) for part in parts] == [36, 4] == [stage.num_prompts, stage.num_held_out]
        assert not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "--goal is missing"),
        ({"goal": "gpro"}, "did you mean 'grpo'"),
        ({"goal": "sft", "gpus": "two"}, "write a whole number"),
        ({"goal": "sft", "model": "org/Some-1B"}, "needs --data"),
        ({"goal": "sft", "model": "org/Some-1B", "data": "nowhere.jsonl"}, "that is there"),
        ({"goal": "grpo", "reward": "nowhere.py:score"}, "there is no file"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(
    tmp_path: Path, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why) as refused:
        write_new(RecipeAnswers.of(given), str(tmp_path / "mine.yaml"))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write_new(RecipeAnswers("sft"), str(tmp_path / "mine.yaml"))
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_five_questions_are_asked_of_who_gives_no_flags() -> None:
    said = iter(["grpo", "", "", "", "1"])
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return next(said)

    assert ask_all({"goal": None}, ask) == RecipeAnswers("grpo", gpus=1)
    assert len(asked) == 5


def test_the_commands_import_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['anneal', 'kinds', 'sft']\n"
        "from scripts.anneal import main\nassert main() == 0\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
