"""An environment as a benchmark: its tasks are questions, its world the check."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from environments.catalogue import make_environment
from environments.config import BfclTasks, HouseTasks, OwnTasks
from environments.episode import as_question, as_task
from environments.house import tasks
from environments.protocol import play_gold
from evals.config import EvalsConfig
from evals.jobs import Job, jobs_of
from evals.plan import plan_evals
from evals.registry import benchmark
from evals.responder import LocalResponder
from evals.run import evaluate
from evals.sources import Loading
from workbench.chat import stop_ids
from workbench.recipe import build
from workbench.rundir import read_json_lines

RECIPE = build({"name": "r", "stages": {"e": {"kind": "evals", "benchmarks": ["house"]}}})


def _responder(tokenizer: Any, questions: Sequence[Any]) -> LocalResponder:
    """Solves the tasks of even place; calls for ever in the third, and says nothing in the others."""
    lookup = {q.messages[0]["content"]: (n, as_task(q)) for n, q in enumerate(questions)}

    def script(prompt: Sequence[int], _: int) -> list[int]:
        text = tokenizer.decode(prompt)
        number, task = next(found for words, found in lookup.items() if words in text)
        done = text.count("<TOOL_RESPONSE>")
        calls = task.data["calls"][done : done + 1] if number % 2 == 0 else []
        if number == 3:
            calls = [{"name": "set_timer", "arguments": {"minutes": 1}}]
        said = f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>" if calls else "Done."
        trace = "hm\n</think>\n\n" if text.rstrip().endswith("<think>") else ""
        return [
            *tokenizer.encode(f"{trace}{said}\n", add_special_tokens=False),
            *stop_ids(tokenizer),
        ]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    return LocalResponder(tokenizer, "m", lambda longest: engine, context=8192)  # type: ignore[arg-type]


def test_the_house_is_a_benchmark(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    house = benchmark("house")
    questions = house.load(Loading(tmp_path, limit=6))
    job = Job(house, None, 6, Sampling(max_tokens=256, seed=1, logprobs=False))
    responder = _responder(tokenizer, questions)
    (result,) = evaluate(responder, [job], model="m", out=tmp_path, data=tmp_path)
    assert (result["n"], result["failed"]) == (6, 0)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(3 / 6)
    rows = {row["id"]: row for row in read_json_lines(tmp_path / "house" / "samples.jsonl")}
    values = [rows[q.id]["value"] for q in questions]
    assert values == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    endless = rows[questions[3].id]
    assert endless["why"]["reason"] == "over 12 turns" and len(endless["turns"]) == 12
    # A second run asks nothing again.
    again = _responder(tokenizer, [])
    (same,) = evaluate(again, [job], model="m", out=tmp_path, data=tmp_path)
    assert same["metrics"] == result["metrics"]


def test_without_a_limit_a_file_is_asked_to_its_end(tmp_path: Path) -> None:
    """A hundred of its rows were, silently; what is drawn has no end."""
    lines = "".join(
        json.dumps({"prompt": f"{i}?", "lamp": 1, "level": i}) + "\n" for i in range(130)
    )
    (tmp_path / "rows.jsonl").write_text(lines)
    lamps = "docs/examples/lamps.py:Lamps"
    own = {
        "filed": OwnTasks(type=lamps, rows=f"{tmp_path}/rows.jsonl"),
        "drawn": HouseTasks(type="house", split="test"),
        "half": BfclTasks(type="bfcl", half="test"),
    }
    config = EvalsConfig(kind="evals", needs=["m"], environments=own, benchmarks=list(own))
    jobs = {job.benchmark.name: job for job in jobs_of(config, seed=1)}
    asked = {name: len(job.benchmark.load(Loading(tmp_path))) for name, job in jobs.items()}
    # 106 of the 200 numbers are of this half.
    assert asked == {"filed": 130, "drawn": 100, "half": 106}
    assert {name: job.size for name, job in jobs.items()} == {
        "filed": None,
        "drawn": 100,
        "half": None,
    }
    assert len(jobs["filed"].benchmark.load(Loading(tmp_path, limit=7))) == 7
    (line,) = plan_evals(config.model_copy(update={"benchmarks": ["drawn"]}), RECIPE).lines
    assert "100 samples" in line


def test_its_tasks_are_held_out_and_come_back_whole() -> None:
    chosen = tasks("test", 5, 2508)
    questions = benchmark("house").load(Loading(Path(), limit=5))
    assert [q.id for q in questions] == [t.id for t in chosen]
    for task, question in zip(chosen, questions, strict=True):
        back = as_task(as_question(task))
        assert (back.messages, back.tools, back.problem) == (
            task.messages,
            task.tools,
            task.problem,
        )
        assert play_gold(make_environment(question.check.kind), as_task(question)).value == 1.0  # type: ignore[union-attr]
    trained = {t.problem for t in tasks("rl", 200, 17)}
    assert not trained & {q.problem for q in questions}
    assert HouseTasks(type="house").split == "rl"
