"""Benchmarks of lm-eval's harness, as far as they go without a model: data, errors, registration."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.command import benchmark_lines
from evals.config import EvalsConfig
from evals.harness.answers import Answers
from evals.harness.run import sample_rows
from evals.jobs import jobs_of
from evals.registry import BENCHMARKS, benchmark
from evals.responder import LocalResponder
from evals.run import evaluate
from workbench.errors import UserError

NAMES = (
    "mmlu", "arc-challenge", "hellaswag", "piqa", "winogrande", "openbookqa", "agieval-en",
    "global-mmlu-lite",
)  # fmt: skip


def test_the_whole_set_of_the_issue_is_listed_with_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = {line.split()[0]: line for line in benchmark_lines()}
    for name in (
        *NAMES, "aime24", "aime25", "math-500", "gpqa-diamond", "livecodebench", "humaneval",
        "humaneval-plus", "mbpp-plus", "bfcl-v3", "ifeval", "ifbench", "ruler-4k", "mmlu-pro",
        "gsm8k", "mgsm", "scicode", "hle", "arena-hard", "mt-bench",
    ):  # fmt: skip
        assert name in lines, name
    assert "the hub, or data/evals/gpqa-diamond.jsonl" in lines["gpqa-diamond"]
    assert "data/evals/scicode-test-data.h5" in lines["scicode"]
    assert "mmlu.jsonl" not in lines["mmlu"] and "its cache (HF_HOME)" in lines["mmlu"]
    assert lines["mini-math"].endswith("here")
    assert lines["mt-bench"].endswith("needs a judge")
    (tmp_path / "data" / "evals").mkdir(parents=True)
    (tmp_path / "data" / "evals" / "gpqa-diamond.csv").write_text("x")
    lines = {line.split()[0]: line for line in benchmark_lines()}
    assert lines["gpqa-diamond"].endswith("here")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu", reason="scripts/setup.sh evals installs what lm-eval imports")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc-challenge", ("allenai/ai2_arc", "arc-challenge.jsonl")),
        ("mmlu", ("cais/mmlu", "HF_HUB_OFFLINE=1")),
        ("agieval-en", ("hails/agieval-aqua-rat and 9 more", "HF_HOME")),
        ("global-mmlu-lite", ("/Global-MMLU-Lite and 1 more", "HF_HOME")),
        ("hellaswag", ("Rowan/hellaswag",)),
        ("piqa", ("baber/piqa",)),
        ("winogrande", ("allenai/winogrande",)),
        ("openbookqa", ("allenai/openbookqa",)),
    ],
)
def test_without_the_hub_one_line_names_the_data_set(
    name: str, words: tuple[str, ...], tmp_path: Path, no_hub: None
) -> None:
    from evals.harness.run import _tasks

    harness = BENCHMARKS[name].harness
    assert harness is not None
    with pytest.raises(UserError) as error:
        _tasks(harness, name, tmp_path)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_a_file_of_the_users_stands_in_for_the_hub(tmp_path: Path, no_hub: None) -> None:
    from evals.harness.run import _tasks

    row = {
        "id": "1", "question": "What is wet?", "answerKey": "B",
        "choices": {"text": ["sand", "water"], "label": ["A", "B"]},
    }  # fmt: skip
    (tmp_path / "arc-challenge.jsonl").write_text(json.dumps(row) + "\n")
    harness = BENCHMARKS["arc-challenge"].harness
    assert harness is not None
    _, (task,) = _tasks(harness, "arc-challenge", tmp_path)
    (doc,) = task.test_docs()
    assert task.doc_to_text(doc) == "Question: What is wet?\nAnswer:"
    assert task.doc_to_choice(doc) == ["sand", "water"] and task.doc_to_target(doc) == 1


def test_an_unknown_task_names_the_nearest_one(tmp_path: Path, no_hub: None) -> None:
    from evals.harness.run import _tasks

    (tmp_path / "lm-eval").mkdir()
    task = {"task": "my_task", "dataset_path": "json", "output_type": "multiple_choice"}
    (tmp_path / "lm-eval" / "mine.yaml").write_text(yaml.safe_dump(task))
    harness = benchmark("lm-eval-my_tusk").harness
    assert harness is not None and harness.tasks == ("my_tusk",)
    # The folder of one family only: looking through all of them takes ten seconds.
    with pytest.raises(UserError, match="did you mean 'my_task'"):
        _tasks(replace(harness, folders=("piqa",)), "lm-eval-my_tusk", tmp_path)


def _doc(number: int, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": number, "doc_hash": "d", "prompt_hash": "p", "filter": "none", "target": 0,
        "arguments": [(f"c{number}", " a"), (f"c{number}", " b")],
        "resps": [[(-1.0, False)], [(-2.0, True)]], "metrics": ["acc", "acc_norm"],
        "acc": 1.0, "acc_norm": 0.0, **more,
    }  # fmt: skip


def test_rows_hold_the_chosen_metric_and_failed_ones_hold_none() -> None:
    docs = [_doc(0), _doc(1), _doc(0, filter="other", acc=0.0)]
    rows = sample_rows({"t": docs}, "acc_norm", {"c1": "lost"})
    assert [(row["id"], row["value"], row["status"]) for row in rows] == [
        ("t-0", 0.0, "ok"),
        ("t-1", None, "error"),
    ]
    assert rows[0]["reply"] == " a" and rows[0]["why"]["likelihoods"] == [-1.0, -2.0]
    assert rows[1]["why"] == {"reason": "lost"}
    with pytest.raises(UserError, match="perplexity"):
        sample_rows({"t": [_doc(0, metrics=["perplexity"], perplexity=9.5)]}, "", {})


def test_answers_survive_a_torn_line(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    answers.keep("one", [-1.5, True])
    with (tmp_path / "requests.jsonl").open("ab") as lines:
        lines.write(b'{"key": "two", "ans')
    again = Answers(tmp_path)
    assert "two" not in again and again.get("one") == [-1.5, True]
    again.keep("three", "text")
    assert Answers(tmp_path / "elsewhere", [tmp_path]).get("three") == "text"
    assert Answers(tmp_path).get("three") == "text"


def test_a_smaller_limit_takes_nothing_from_a_result_of_the_harness(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sacrebleu", reason="scripts/setup.sh evals installs what lm-eval imports")
    asked: list[int | None] = []

    def simple_evaluate(lm: Any, *, limit: int | None, **_: Any) -> dict[str, Any]:
        asked.append(limit)
        docs = [
            {
                "doc_id": i, "doc_hash": str(i), "prompt_hash": str(i), "target": "a", "metrics": ["acc"],
                "acc": float(i % 2), "filter": "none", "arguments": [("q", "a")], "resps": [["a"]],
            }
            for i in range(limit or 9)
        ]  # fmt: skip
        return {"samples": {"t": docs}, "n-shot": {}, "versions": {}, "results": {}}

    monkeypatch.setattr("lm_eval.simple_evaluate", simple_evaluate)
    monkeypatch.setattr("evals.harness.run._tasks", lambda *_: (None, []))

    def result(limit: int | None, identity: str = "model-a") -> dict[str, Any]:
        config = EvalsConfig(kind="evals", benchmarks=["lm-eval-t"], limit=limit)
        responder = LocalResponder(tokenizer, identity, lambda _: None, 64)  # type: ignore[arg-type,return-value]
        jobs = jobs_of(config, seed=1)
        (found,) = evaluate(responder, jobs, model="m", out=tmp_path, data=tmp_path)
        return found

    assert [result(limit)["n"] for limit in (4, 2, 6, None, 2)] == [4, 4, 6, 9, 9]
    assert asked == [4, 4, 6, None, None]
    path = tmp_path / "lm-eval-t" / "results.json"
    assert json.loads(path.read_text())["sampling"]["limit"] is None
    assert result(2, "model-b")["n"] == 2  # another model starts anew
