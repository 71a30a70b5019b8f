"""Benchmark files of users: read as they were meant, or refused with the row."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_mix.config import JsonlSource
from data_mix.decontaminate import read_prompts
from data_mix.rows import JsonlRows
from data_mix.sources import open_source
from engine.protocol import Sampling
from evals.custom_files import answer, read_rows, texts, whole
from evals.jobs import Job
from evals.registry import benchmark
from evals.samples import samples_of
from evals.sources import Loading
from workbench.conversation import Conversation
from workbench.errors import UserError

MMLU: dict[str, Any] = {
    "question_id": 7, "question": "Which?", "options": ["Paris", "Rome; or not", "Oslo"],
    "answer_index": 1, "answer": "B", "category": "geography",
}  # fmt: skip


def _load(folder: Path, name: str, body: bytes, suffix: str = "jsonl") -> list[Conversation]:
    (folder / f"{name}.{suffix}").write_bytes(body)
    return benchmark(name).load(Loading(folder))


def _one(folder: Path, name: str, row: dict[str, Any]) -> Conversation:
    (found,) = _load(folder, name, json.dumps(row).encode())
    return found


def _check(found: Conversation) -> Any:
    assert found.check is not None
    return found.check.reference


def test_a_limit_counts_the_questions_of_each_category(tmp_path: Path) -> None:
    """The first rows are all of one: 2 of 5 were two of geography."""
    rows = [
        {**MMLU, "question_id": i, "category": category}
        for i, category in enumerate(["geo", "geo", "geo", "law", "geo", "law"])
    ]
    (tmp_path / "mmlu-pro.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = benchmark("mmlu-pro").load(Loading(tmp_path, limit=2))
    assert [(q.id, q.domain) for q in asked] == [
        ("mmlu-pro-0", "geo"), ("mmlu-pro-1", "geo"), ("mmlu-pro-3", "law"), ("mmlu-pro-5", "law"),
    ]  # fmt: skip
    every = benchmark("mmlu-pro").load(Loading(tmp_path))
    assert [q.id for q in every] == [f"mmlu-pro-{i}" for i in range(6)]


OPTIONS_A = 'question,options,answer_index,category\nWhich?,"{}",1,geo\n'


@pytest.mark.parametrize(
    "cell",
    [
        '[""Paris"", ""Rome; or not"", ""Oslo""]',
        "['Paris', 'Rome; or not', 'Oslo']",
        "Paris\nRome\nOslo",
        "Paris | Rome | Oslo",
        "Paris; Rome; Oslo",
    ],
)
def test_options_in_a_cell_are_whole_texts(tmp_path: Path, cell: str) -> None:
    (found,) = _load(tmp_path, "mmlu-pro", OPTIONS_A.format(cell).encode(), "csv")
    lines = found.messages[0]["content"].splitlines()[-3:]
    assert [line[:6] for line in lines] == ["A) Par", "B) Rom", "C) Osl"]
    assert _check(found) == "B" and found.check.options == {"num_choices": 3}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "cell",
    ["Paris", "Paris, Rome", "a | b; c", "['Paris' 'Rome']", "[", "7", "", "Paris || Rome", "{}"],
)
def test_options_that_could_be_read_in_two_ways_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match=r"mmlu-pro.csv, line 2: options is .*give a "):
        _load(tmp_path, "mmlu-pro", OPTIONS_A.format(cell).encode(), "csv")


@pytest.mark.parametrize("place", [-1, 3, 1.5, "B", None, True, float("nan"), [1], "1e999"])
def test_a_right_option_that_is_none_is_refused(tmp_path: Path, place: Any) -> None:
    with pytest.raises(UserError, match=r"mmlu-pro.jsonl, line 1: answer_index"):
        _one(tmp_path, "mmlu-pro", MMLU | {"answer_index": place})


def test_places_that_count_from_one_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is option C and answer is B; the first option is 0"):
        _one(tmp_path, "mmlu-pro", MMLU | {"answer_index": 2})
    assert _check(_one(tmp_path, "mmlu-pro", MMLU | {"answer_index": "1.0"})) == "B"
    many = MMLU | {"options": ["x"] * 27, "answer": ""}
    with pytest.raises(UserError, match="27 options; give 2 to 26"):
        _one(tmp_path, "mmlu-pro", many)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("math-500", {"problem": "2+2", "answer": None}, "answer"),
        ("math-500", {"problem": "2+2", "answer": " "}, "answer"),
        ("math-500", {"problem": "2+2", "answer": True}, "answer"),
        ("math-500", {"problem": "2+2", "answer": float("nan")}, "answer"),
        ("math-500", {"problem": "2+2", "answer": ["4"]}, "answer"),
        ("math-500", {"problem": None, "answer": 4}, "problem"),
        ("gsm8k", {"question": "2+2", "answer": "so\n#### "}, "answer"),
        ("mmlu-pro", MMLU | {"options": ["a", None, "c"]}, "options"),
        ("mmlu-pro", MMLU | {"options": None}, "options"),
        ("ifeval", {"key": 1, "prompt": "p", "instruction_id_list": ["a", "b"], "kwargs": [{}]}, "kwargs"),
        ("mbpp-plus", {"task_id": 1, "prompt": "p", "code": "x = 1", "test_list": ["t"], "test": "t"}, "code"),
        ("mbpp-plus", {"task_id": 1, "prompt": "p", "code": "def f(): 1", "test_list": [], "test": "t"}, "test_list"),
    ],
)  # fmt: skip
def test_a_hole_in_a_row_is_refused_with_its_place(
    tmp_path: Path, name: str, row: dict[str, Any], column: str
) -> None:
    good = {"math-500": {"problem": "1+1", "answer": 2}}.get(name)
    body = (json.dumps(good) + "\n\n" if good else "") + json.dumps(row)
    where = f"{name}.jsonl, line {3 if good else 1}: .*{column}"
    with pytest.raises(UserError, match=where):
        _load(tmp_path, name, body.encode())


def test_numbers_are_answers(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": value} for value in (4, 4.0, "4.50", -0.5, "None of these")]
    found = _load(tmp_path, "math-500", "\n".join(map(json.dumps, rows)).encode())
    assert [_check(one) for one in found] == ["4", "4", "4.50", "-0.5", "None of these"]


_LINES = [
    json.dumps({"problem": "a\u2028b", "answer": "4", "text": "a\u2028b"}, ensure_ascii=False),
    json.dumps({"problem": "c\x85d\u2029", "answer": "5", "text": "c\x85d\u2029"}, ensure_ascii=False),
]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        "\n".join(_LINES).encode(),
        b"\xef\xbb\xbf" + "\n".join(_LINES).encode(),
        "\r\n".join(_LINES).encode() + b"\r\n\r\n",
        b"\n \n" + "\n\n".join(_LINES).encode() + b"\n\n",
        b"\xef\xbb\xbf\n" + "\n".join(_LINES).encode(),
    ],
    ids=["separators", "BOM", "CRLF", "empty lines", "BOM alone"],
)
def test_jsonl_is_one_thing_for_questions_training_and_cleaning(
    tmp_path: Path, body: bytes
) -> None:
    found = _load(tmp_path, "math-500", body)
    assert [_check(one) for one in found] == ["4", "5"]
    path = tmp_path / "math-500.jsonl"
    rows = JsonlRows([path])
    assert [rows.row(n)[0]["answer"] for n in range(len(rows))] == ["4", "5"]
    source = JsonlSource(type="jsonl", path=str(path), form="text", column="text")
    assert len(open_source(source, name="s", seed=0).take(2)) == 2
    assert read_prompts(str(path)) == ["a\u2028b", "c\x85d\u2029"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"problem": "p", "answer": 4}\n{"problem": ', "line 2 is not JSON"),
        (b'{"problem": "p", "answer": 4}\n[1]', "line 2 is not a JSON object but list"),
        (b"", "holds no rows"),
        (b"\xef\xbb\xbf\n\n", "holds no rows"),
        (b'{"question": "p"}', "has no column 'problem'; it has: question"),
    ],
)
def test_a_file_that_is_none_says_where(tmp_path: Path, body: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        _load(tmp_path, "math-500", body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"problem": "p", "answer": 4}', "holds a dict; give a list"),
        (b'{"problem": "p"}\n{"problem": "q"}', "is not JSON"),
        (b"[1]", "item 1 is a int"),
        (b"[", "is not JSON"),
    ],
)
def test_a_json_file_holds_a_list_of_objects(tmp_path: Path, body: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        _load(tmp_path, "math-500", body, "json")


@pytest.mark.parametrize(
    "body",
    [
        b'problem,answer\n"a, b",4\nc,5\n',
        b'\xef\xbb\xbfproblem;answer\r\n"a, b";4\r\nc;5\r\n',
        b'sep=;\r\nproblem;answer\r\n"a, b";4\r\nc;5\r\n',
        b'problem\tanswer\n"a, b"\t4\nc\t5\n',
        b'"problem", answer\n"a, b",4\n,\nc,5\n , \n\n',
        b',problem,answer,,\n0,"a, b",4,,\n1,c,5,,\n,,,,\n',
        'problem\tanswer\r\n"a, b"\t4\r\nc\t5\r\n'.encode("utf-16"),
    ],
    ids=["plain", "European", "sep=", "tabs", "blanks", "index and empty columns", "UTF-16"],
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, body: bytes) -> None:
    found = _load(tmp_path, "math-500", body, "csv")
    assert [one.messages[0]["content"].splitlines()[-1] for one in found] == ["a, b", "c"]
    assert [_check(one) for one in found] == ["4", "5"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"PK\x03\x04\x14\x00", "is a spreadsheet"),
        ("problem,answer\nö,4\n".encode("latin-1"), "is not UTF-8"),
        (b"problem,answer\na, b,4\n", "line 2 has 3 cells, the first line names 2"),
        (b"problem,answer\na\n", "line 2 has 1 cells"),
        (b'problem,answer\n"a,4\nb,5\n', "line .* is not CSV"),
        (b"answer,problem,answer\n1,a,4\n", "two columns 'answer'"),
        (b"problem,answer\na,4\nb,\n", 'line 3: answer is ""'),
        (b"problem,solution\na,4\n", "has no column 'answer'; it has: problem, solution"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, body: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        _load(tmp_path, "math-500", body, "csv")


def test_a_cell_may_be_longer_than_the_csv_modules_limit_and_hold_lines(tmp_path: Path) -> None:
    body = 'problem,answer\n"' + "x\n" * 100_000 + '",4\nb,\n'
    with pytest.raises(UserError, match="line 100003: answer"):
        _load(tmp_path, "math-500", body.encode(), "csv")


def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    rows = [MMLU, MMLU | {"question": "Which else?"}, MMLU | {"question_id": None}]
    (tmp_path / "mmlu-pro.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = Job(benchmark("mmlu-pro"), None, None, Sampling(max_tokens=9))
    responder: Any = _Nobody()
    with pytest.raises(UserError, match="row 2: id 'mmlu-pro-7' is also that of row 1"):
        samples_of(job, responder, tmp_path)


class _Nobody:
    tokenizer, identity = None, ""

    def prepare(self, question: Conversation, *, thinking: bool) -> str:
        return "prompt"

    def fits(self, prompts: list[str], max_tokens: int) -> list[str]:
        return [""] * len(prompts)


def test_parquet_with_nulls_and_a_broken_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "math-500.parquet"
    pq.write_table(pa.table({"problem": ["a", "b"], "answer": [4.0, None]}), path)
    with pytest.raises(UserError, match="row 2: answer is null"):
        benchmark("math-500").load(Loading(tmp_path))
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is not a Parquet file"):
        read_rows(path)


def test_readers() -> None:
    assert [whole(x) for x in (3, 3.0, "3", "3.0")] == [3, 3, 3, 3]
    assert [answer(x) for x in (7.0, 7, "7.0", 0.5)] == ["7", "7", "7.0", "0.5"]
    assert texts('["a", 1]') == ["a", "1"]
