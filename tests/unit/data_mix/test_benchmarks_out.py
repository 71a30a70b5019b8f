"""Step `decontaminate`: benchmarks by name, runs of words, and a judge that may be dead."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_mix.curate.nearest import Nearest
from data_mix.curate.questions import BenchmarkQuestion, common_runs, names_of, prompts_of
from data_mix.curate.steps import decontaminate
from data_mix.decontaminate import Decontaminator
from data_mix.hashed_runs import hashed
from data_mix.words import runs, words
from engine.judge_client import JudgeReply
from evals.questions import questions_of
from tests.data_stages import data_of, rows_of, run_stages
from workbench.errors import UserError

TASK = "def has_close_elements(numbers: List[float], threshold: float) -> bool:"
# Of the first question of aime24, in words of our own: the numbers and names stay.
REPHRASED = (
    "Aimeville has 900 residents. Of them 195 own a diamond ring, 367 own a set of golf clubs and 562 own a "
    "garden spade; every resident owns a bag of candy hearts. If 437 residents own exactly two of these "
    "things and 234 own exactly three, how many own all four of these things?"
)


def test_runs_as_numbers_are_equal_where_their_words_are() -> None:
    text = "a b c d e a b c d 天地玄黄宇宙洪荒天地玄黄宇宙洪荒 a b c d e"
    numbers = hashed(text).runs(4)
    tokens, weights = words(text)
    by_words = list(runs(tokens, weights, 4))
    assert len(numbers) == len(by_words)
    for a, run in enumerate(by_words):
        for b, other in enumerate(by_words):
            assert (numbers[a] == numbers[b]) == (run == other)


def test_names_are_those_of_evaluations() -> None:
    assert names_of(["aime24", "aime24"], "none") == ["aime24"]
    assert "humaneval" in names_of(["all-here"], "none")
    assert "gsm8k" not in names_of(["all-here"], "none")
    with pytest.raises(UserError, match="did you mean 'humaneval'"):
        names_of(["humanevil"], "none")


def test_questions_come_with_their_answers() -> None:
    identity, texts = next(questions_of("humaneval", "none"))
    assert identity == "HumanEval/0" and sum(TASK in text for text in texts) == 2
    assert any("assert candidate([1.0, 2.0, 5.9, 4.0, 5.0], 0.95) == True" in t for t in texts)


@pytest.mark.integration  # twenty seconds of imports
def test_the_harness_gives_its_questions_too(tmp_path: Path) -> None:
    asked = "At which temperature does pure water boil at the level of the sea?"
    row = {"id": "a", "question": asked, "choices": {"text": ["100", "90"], "label": ["A", "B"]}, "answerKey": "A"}  # fmt: skip
    (tmp_path / "arc-challenge.jsonl").write_text(json.dumps(row) + "\n")
    assert [texts[0] for _, texts in questions_of("arc-challenge", str(tmp_path))] == [
        f"Question: {asked}\nAnswer:"
    ]


def test_how_a_benchmark_asks_is_not_what_it_asks() -> None:
    head = "Answer the question below as well as you can and then stop"
    questions = [
        BenchmarkQuestion("b", str(n), (f"{head}\n\nWhich {n} of the {n + 1} rivers in country {n} is long and wide?",))
        for n in range(40)
    ]  # fmt: skip
    questions.append(
        BenchmarkQuestion("b", "zeros", (f"matrix {'0 ' * 30} of one two three four five six",))
    )
    common, prompts = common_runs(questions, 8), prompts_of(questions)
    assert head not in prompts and "Which 3 of the 4 rivers" in prompts[7]
    assert np.isin(hashed(head).runs(8), common).all()
    guard = Decontaminator(prompts, ngram_words=8, common=common)
    assert not guard.is_contaminated(f"{head}, said the teacher to the class on that morning.")
    assert not guard.is_contaminated(f"the matrix {'0 ' * 50}")
    assert guard.is_contaminated("He asked: which 3 of the 4 rivers in country 3 is long?")


def _stage(folder: Path, texts: Sequence[str], **more: Any) -> dict[str, Any]:
    path = folder / "texts.jsonl"
    rows = [{"id": f"t{n}", "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "form": "text", "column": "text", "path": str(path)}
    step = {"type": "decontaminate", "against": ["aime24"], **more}
    return {"pages": {"kind": "curate", "input": source, "steps": [step], "retries": 0}}


def test_exact_copies_go_and_other_texts_stay(tmp_path: Path) -> None:
    copies = [texts[0] for _, texts in questions_of("aime24", "none")]
    innocent = ["def f(x): return x", "0 " * 200, "All own golf clubs."]
    texts = [f"Some words before. {copy} And after it." for copy in copies] + innocent
    run_stages(tmp_path / "run", _stage(tmp_path, texts))
    assert [row["text"] for row in rows_of(tmp_path / "run", "pages")] == innocent
    removed = data_of(tmp_path / "run", "pages")["removed"]
    assert removed == {"decontaminate: shares words with a question": 30}
    assert not (tmp_path / "run/pages/checkpoints").exists()


def test_conversations_are_searched_whole_and_short_questions_where_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    monkeypatch.setattr("data_mix.curate.questions.names_of", lambda against, data: list(against))
    source = SimpleNamespace(
        questions_of=lambda name, data: [("a", ["What is 2 + 3?"]), ("b", [long])]
    )
    monkeypatch.setattr("data_mix.curate.questions.sources", lambda: [source])
    told = [
        ("What is 2 + 3?", "5", ""),
        ("I asked: what is 2 + 3? He was silent.", "So?", ""),
        ("Count.", "Done.", long),
    ]
    rows = [
        {
            "id": str(n),
            "domain": "a",
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": said, "reasoning_content": thought},
            ],
        }
        for n, (asked, said, thought) in enumerate(told)
    ]
    stages = _stage(tmp_path, [])
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages["pages"]["input"] |= {"form": "conversation"}
    del stages["pages"]["input"]["column"]
    run_stages(tmp_path / "run", stages)
    assert [row["id"] for row in rows_of(tmp_path / "run", "pages")] == ["1"]


def test_a_rephrased_question_is_found_by_its_characters() -> None:
    questions = [texts[0] for _, texts in questions_of("aime24", "none")]
    padding = "The weather was fine, and nobody in the village thought of anything else. " * 30
    found = Nearest(questions).of(padding + REPHRASED + padding, 3, 0.2)
    assert found[0].question == 0 and "Aimeville" in found[0].window
    assert Nearest(questions).of(padding, 3, 0.4) == []


class _Judge:
    """Says what the test wants of the first and the second order, and counts."""

    says: tuple[JudgeReply, JudgeReply]

    def __init__(self, config: Any) -> None:
        self.config = config

    def ask_all(self, asked: Sequence[Any]) -> list[JudgeReply]:
        for place, messages in enumerate(asked):
            text = messages[0]["content"]
            assert (text.index("Question:") < text.index("Passage:")) == (place % 2 == 0)
        return [self.says[place % 2] for place in range(len(asked))]


def ok(text: str) -> JudgeReply:
    return JudgeReply("ok", text)


@pytest.mark.parametrize(
    ("says", "removed", "failed"),
    [
        ((ok("Yes."), ok("yes")), "a question in other words", None),
        ((ok("**No**"), ok("no")), None, None),
        ((ok("yes"), ok("no")), "undecided by the judge", None),
        ((ok("yes"), JudgeReply("error", "", "judge: connection refused")), None, "judge: connection refused"),
        ((JudgeReply("truncated", "no", "judge: the token limit cut its reply"), ok("no")), None,
         "judge: the token limit cut its reply"),
        ((ok("I cannot say yes or no"), ok("no")), None, "judge: neither yes nor no"),
        ((ok("maybe"), ok("no")), None, "judge: neither yes nor no"),
    ],
)  # fmt: skip
def test_a_judge_has_three_outcomes_and_a_dead_one_decides_nothing(
    says: tuple[JudgeReply, JudgeReply],
    removed: str | None,
    failed: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decontaminate, "JudgeClient", _Judge)
    monkeypatch.setattr(_Judge, "says", says, raising=False)
    judge = {"endpoint": "http://localhost:1/v1#none"}
    stages = _stage(tmp_path, [REPHRASED, "A text about the weather."], judge=judge, likeness=0.3)
    stages["pages"]["max_failed"] = 0.5
    run_stages(tmp_path / "run", stages)
    data = data_of(tmp_path / "run", "pages")
    assert data["removed"] == ({f"decontaminate: {removed}": 1} if removed else {})
    assert data["failed"] == ({f"decontaminate: {failed}": 1} if failed else {})
    kept = [row["id"] for row in rows_of(tmp_path / "run", "pages")]
    assert kept == (["t1"] if removed or failed else ["t0", "t1"])
