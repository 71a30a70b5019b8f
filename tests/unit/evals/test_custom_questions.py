"""Benchmarks of one's own: a file of questions with checks, and a function that makes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.models import Model
from evals.plan import reads
from evals.registry import benchmark
from evals.sources import Loading
from evals.sweep import sweep
from tests.judge_server import Said, judge_server
from workbench.content import Contents, Reads
from workbench.errors import UserError

MINE = '''
def bench():
    """Doubles, and a word that a rule of our own counts."""
    for n in (3, 4):
        yield {"prompt": f"2 x {n}?", "answer": 2 * n, "problem": n}
    yield {"prompt": "Three words, please.", "answer": 3, "check": count_words, "options": {"most": 9}}

def count_words(prompt, reply, reference, *, most):
    return 1.0 if len(reply.answer.split()) == reference <= most else 0.0

def greedy():
    return {"questions": list(bench()), "samples": 4, "max_tokens": 64, "temperature": 0.5, "about": "mine"}
'''


def _lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"own:{path}"


def _loaded(name: str) -> list[Any]:
    return benchmark(name).load(Loading(Path("nowhere")))


def _swept(
    name: str, out: Path, say: Callable[[dict[str, Any]], Said], **more: Any
) -> dict[str, Any]:
    with judge_server(say) as server:
        config = EvalsConfig(kind="evals", benchmarks=[name], **more)
        return sweep([Model("m", server.address)], config, out=out / "evals", seed=1)["m"][0]


def _answers(asked: dict[str, Any]) -> Said:
    text = str(asked["messages"][-1]["content"])
    return Said(
        {"2 x 3?": "6", "2 x 4?": "9", "Three words, please.": "one two three"}.get(text, "hm")
    )


def test_a_function_makes_questions_and_checks_them_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    result = _swept(f"{tmp_path}/mine.py:bench", tmp_path, _answers)
    assert (result["n"], result["failed"]) == (3, 0)
    # 6 is right, 9 is not, three words are three.
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_changed_check_judges_the_kept_replies_anew(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    name, asked = f"{tmp_path}/mine.py:bench", list[str]()

    def say(one: dict[str, Any]) -> Said:
        asked.append(one["messages"][-1]["content"])
        return _answers(one)

    config = EvalsConfig(kind="evals", benchmarks=[name])
    with judge_server(say) as server:
        for rule, accuracy in (("== reference", 2 / 3), ("== reference + 1", 1 / 3)):
            (tmp_path / "mine.py").write_text(MINE.replace("== reference", rule))
            result = sweep([Model("m", server.address)], config, out=tmp_path / "e", seed=1)["m"][0]
            assert result["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert asked.count("Three words, please.") == 1  # the reply is the one that was kept


def test_what_a_function_says_of_its_protocol(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path}/mine.py:greedy"
    config = EvalsConfig(kind="evals", benchmarks=[name], limit=1)
    (job,) = jobs_of(config, seed=1)
    sampling = job.sampling
    assert (sampling.n, sampling.max_tokens, sampling.temperature) == (4, 64, 0.5)
    assert job.folder == f"own-{str(tmp_path).strip('/').replace('/', '-')}-mine-greedy"
    result = _swept(name, tmp_path, _answers, limit=2)
    assert (result["n"], result["num_samples"]) == (2, 4)
    # One of two questions is always right: pass@k is one half for every k.
    assert result["metrics"]["pass@4"]["value"] == 0.5


def test_a_file_of_conversations_with_checks(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    name = _lines(
        path,
        {"prompt": "2 x 3?", "answer": 6},
        {"id": "b", "system": "Be brief.", "prompt": "x", "answer": "y", "check": "contains"},
        {
            "messages": [{"role": "user", "content": "z"}],
            "check": {"kind": "choice", "reference": "B"},
        },
    )
    first, second, third = _loaded(name)
    assert (first.id, first.domain, first.check.kind, first.check.reference) == (
        "quiz-1", "quiz", "math", "6",
    )  # fmt: skip
    assert [m["role"] for m in second.messages] == ["system", "user"]
    assert (second.id, second.check.kind, second.check.reference) == ("b", "contains", ["y"])
    assert (third.id, third.check.kind, third.check.reference) == ("quiz-3", "choice", "B")
    assert benchmark(name).name == "own-quiz"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "answer": None}, "line 1 has no answer"),
        ({"answer": "a"}, "give either prompt"),
        ({"prompt": "a", "messages": [], "answer": "1"}, "give either prompt"),
        ({"prompt": " ", "answer": "1"}, "prompt is ' '"),
        ({"prompt": "a", "answr": "1"}, "did you mean 'answer'"),
        ({"prompt": "a", "answer": "1", "check": 3}, "check is 3"),
        ({"prompt": "a", "answer": ""}, "answer is ''; give a text or a number"),
        (
            {"prompt": "a", "answer": ["42", "43"]},
            "answer is ['42', '43']; give a text or a number",
        ),
        ({"prompt": "a", "answer": True}, "answer is True"),
        ({"prompt": "a", "answer": {"a": 1}}, "give a text or a number"),
        ({"prompt": "a", "answer": 1, "check": "choice"}, "one letter of A-D, got 1"),
        (
            {"prompt": "a", "answer": "E", "check": "choice", "options": {"num_choices": 4}},
            "one letter of A-D, got 'E'",
        ),
        (
            {"prompt": "a", "answer": "x", "options": {"boxed": True}},
            "unknown option of check 'math'",
        ),
        (
            {"prompt": "a", "answer": "x", "check": "contains", "options": {"mode": "some"}},
            "unknown mode of contains check 'some'",
        ),
        ({"prompt": "a", "answer": True, "check": "contains"}, "is a list of strings, got True"),
        ({"prompt": "a", "check": "contains"}, "reference of its contains check is null"),
        (
            {
                "prompt": "a",
                "check": {"kind": "instructions", "reference": [{"instruction_id": "x"}]},
            },
            "unknown instruction 'x'",
        ),
        ({"prompt": "a", "answer": "1", "options": ["Paris", "Rome"]}, "give a mapping"),
        ({"prompt": "a", "answer": "1", "options": "Paris"}, "give a mapping, in a CSV as JSON"),
        (
            {"prompt": "a", "answer": "1", "check": {"kind": "math", "options": [1]}},
            "options is [1]; give a mapping",
        ),
        ({"prompt": "a", "answer": "1", "tools": "search"}, "tools is 'search'; give a list"),
        ({"prompt": "a", "answer": "1", "tools": ["search"]}, "tools has 'search'"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "answer": "1"},
            "ends with what is asked",
        ),
    ],
)
def test_a_bad_row_is_one_line_that_names_it(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as refused:
        _loaded(_lines(tmp_path / "quiz.jsonl", row))
    assert why in str(refused.value) and "quiz.jsonl, line 1" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_example_of_the_docs_is_scored(tmp_path: Path) -> None:
    """docs/evals.md has this row, and a list in its place."""
    name = _lines(
        tmp_path / "quiz.jsonl",
        {"prompt": "Say hello.", "answer": "hello", "check": "contains"},
        {"prompt": "Say both.", "answer": ["hello", "bye"], "check": "contains"},
    )
    result = _swept(name, tmp_path, lambda asked: Said("Hello!"))
    assert (result["n"], result["failed"]) == (2, 0)
    assert result["metrics"]["accuracy"]["value"] == 0.75


def test_cells_of_a_csv_hold_json_and_empty_ones_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "quiz.csv").write_text(
        "id,prompt,answer,check,options,problem\n"
        'a,x,B,choice,"{""num_choices"": 3}",\n'
        "b,y,7.0,,,p\n"
    )
    first, second = _loaded(f"own:{tmp_path}/quiz.csv")
    assert (first.check.kind, first.check.options, first.problem) == (
        "choice",
        {"num_choices": 3},
        None,
    )
    assert (second.check.kind, second.check.reference, second.problem) == ("math", "7.0", "p")


def test_an_unknown_check_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    name = _lines(tmp_path / "quiz.jsonl", {"prompt": "a", "answer": "1", "check": "mth"})
    asked: list[Any] = []
    with pytest.raises(UserError, match="unknown kind of check 'mth'"):
        _swept(name, tmp_path, lambda a: asked.append(a) or Said("1"))  # type: ignore[func-returns-value]
    assert all(a["messages"][-1]["content"] != "a" for a in asked)


def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "a", "answer": "1"}
    with pytest.raises(UserError, match=r"line 2: id 'a' is that of .*line 1 too"):
        _loaded(_lines(tmp_path / "quiz.jsonl", row, row))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def bench(): return []", "returned nothing"),
        ("def bench(): return 'text'", "returned a str"),
        ("def bench(): return {'questions': [1], 'smaples': 2}", "did you mean 'samples'"),
        (
            "def bench(): return {'questions': [1], 'samples': '4'}",
            "samples is '4'; it must be a valid integer",
        ),
        ("def bench(): return {'questions': [1], 'samples': 0}", "greater than or equal to 1"),
        ("def bench(): return {'questions': [1], 'max_tokens': -5}", "max_tokens is -5"),
        ("def bench(): return {'questions': [1], 'temperature': 'hot'}", "temperature is 'hot'"),
        ("def bench(): return {'questions': [1], 'top_p': 0}", "top_p is 0"),
        ("def bench(): return {'questions': [1], 'thinking': 'no'}", "thinking is 'no'"),
        ("def bench(): 1/0", "division by zero"),
        ("def bench(): return [{'prompt': object()}]", "not a plain value"),
        ("def bench(n): return []", "missing 1 required"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
    ],
)
def test_a_function_that_makes_no_questions_is_one_line(
    tmp_path: Path, source: str, why: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UserError) as refused:
        benchmark(f"{tmp_path}/mine.py:bench")
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    row = {"prompt": "a", "answer": "1"}
    names = [_lines(tmp_path / "q.jsonl", row), _lines(tmp_path / "a" / "q.jsonl", row)]
    with pytest.raises(UserError, match="would share the name 'own-q'"):
        jobs_of(EvalsConfig(kind="evals", benchmarks=names), seed=1)


def test_the_users_files_count_as_what_the_stage_reads(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    name = _lines(tmp_path / "q.jsonl", {"prompt": "a", "answer": "1"})
    config = EvalsConfig(kind="evals", benchmarks=[name, f"{tmp_path}/mine.py:bench"])
    marks = list(reads(config))
    assert marks == [
        (Reads("files"), str(tmp_path / "q.jsonl")), (Reads("function"), f"{tmp_path}/mine.py:bench"),
    ]  # fmt: skip
    then = [Contents(tmp_path).of(*mark)[1] for mark in marks]
    (tmp_path / "mine.py").write_text(MINE + "\n# changed\n")
    now = [Contents(tmp_path).of(*mark)[1] for mark in marks]
    assert (then[0] == now[0], then[1] == now[1]) == (True, False)


def test_the_ablations_recall_asks_for_a_code_that_its_text_holds_once() -> None:
    asked = _loaded("docs/examples/codes.py:short")
    assert len(asked) == len({one.id for one in asked}) == 150
    for one in asked:
        ((kind, kwargs),) = ((c["instruction_id"], c["kwargs"]) for c in one.check.reference)
        ((word,), text) = (kwargs["keywords"], one.prompt[-1]["content"])
        assert kind == "keywords:existence" and text.count(f" is {word}.") == 1
        # About 500 characters of text in whole passages of at most 400.
        assert 500 <= len(text) <= 1000
        assert one.problem.endswith(word.replace(" ", ":"))
