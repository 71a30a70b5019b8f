"""Local files, hub streams and world sources: reading, order, repetition, cleaning, errors."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from data_mix import sources
from data_mix.config import HubSource, SourceConfig
from data_mix.curate import inputs
from data_mix.sources import Source, open_source
from data_mix.world import PROPORTIONS
from workbench.conversation import Conversation
from workbench.errors import UserError


def _open(values: dict[str, Any], seed: int = 0) -> Source:
    config: SourceConfig = TypeAdapter(SourceConfig).validate_python(values)
    return open_source(config, name="mine", seed=seed)


def _jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _text_source(path: str, **more: Any) -> Source:
    kind = "parquet" if path.endswith("parquet") else "jsonl"
    return _open({"type": kind, "path": path, "form": "text", "column": "text", **more})


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_pass_holds_each_row_once_in_another_order(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"row {n}"} for n in range(20)]
    if kind == "jsonl":
        path = _jsonl(tmp_path / "rows.jsonl", rows)
    else:
        path = str(tmp_path / "rows.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=6)
    source = _text_source(path)
    first, second = ([source.draw() for _ in range(20)] for _ in range(2))
    assert sorted(map(str, first)) == sorted(row["text"] for row in rows)
    assert Counter(map(str, first)) == Counter(map(str, second))
    assert first != second
    again = _text_source(path)
    again.load_state_dict({"position": 13})
    assert [again.draw() for _ in range(20)] == [*first, *second][13:33]


def test_messages_with_think_tags_become_reasoning(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>\n2+2=4\n</think>\n\n4"},
    ]
    path = _jsonl(tmp_path / "m.jsonl", [{"uuid": "u1", "messages": messages}])
    read = _open({"type": "jsonl", "path": path, "domain": "math"}).draw()
    assert isinstance(read, Conversation)
    assert (read.id, read.domain) == ("u1", "math")
    assert read.reply == {"role": "assistant", "content": "4", "reasoning_content": "2+2=4"}


def test_conversation_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = _open({"type": "world", "domain": "tool_calling"}).take(5)
    rows = [c.to_row() for c in written if isinstance(c, Conversation)]
    path = _jsonl(tmp_path / "c.jsonl", rows)
    read = _open({"type": "jsonl", "path": path, "form": "conversation"}).take(5)
    assert sorted(read, key=str) == sorted(written, key=str)


def test_a_mix_of_the_world_has_the_papers_proportions_to_the_sample() -> None:
    """1,000 samples: floors of 1000 x share and the largest remainders [derived]."""
    taken = _open({"type": "world"}).take(1000)
    counts = Counter(c.domain for c in taken if isinstance(c, Conversation))
    assert sum(counts.values()) == 1000
    for domain, share in PROPORTIONS.items():
        assert abs(counts[domain] - 1000 * share) < 1


def test_cleaning_keeps_the_right_rows_and_counts_the_others(tmp_path: Path) -> None:
    benchmark = _jsonl(tmp_path / "bench.jsonl", [{"text": "how many legs has a red spider today"}])
    texts = [
        "a plain long enough text about rivers",
        "A plain  long enough text about RIVERS",
        "tiny",
        "they asked how many legs has a red spider today and left",
    ]
    path = _jsonl(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    clean = {
        "filters": [{"name": "min_characters", "limit": 10}],
        "dedup": "exact",
        "decontaminate_against": benchmark,
        "ngram_words": 6,
    }
    source = _text_source(path, clean=clean)
    assert [source.draw() for _ in range(2)] == [texts[0]] * 2
    removed = {"min_characters": 1, "decontaminate": 1, "dedup": 1}
    assert source.accounting() == {"rows": 4, "kept": 1, "removed": removed}


def test_replies_that_fail_their_check_are_filtered(tmp_path: Path) -> None:
    good = {
        "id": "1",
        "domain": "science",
        "check": {"kind": "choice", "reference": "B"},
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "B"}],
    }
    good["check"]["options"] = {"num_choices": 4}  # type: ignore[index]
    bad = {
        **good,
        "id": "2",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "C"}],
    }
    path = _jsonl(tmp_path / "c.jsonl", [good, bad])
    clean = {"filters": [{"name": "passes_check"}]}
    source = _open({"type": "jsonl", "path": path, "form": "conversation", "clean": clean})
    assert source.accounting() == {"rows": 2, "kept": 1, "removed": {"passes_check": 1}}
    document = source.draw()
    assert isinstance(document, Conversation)
    assert document.id == "1"


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"body": "x"}], {}, "has no column 'text'; its columns are: body"),
        ([{"text": 5}], {}, "column 'text' holds no text but 5"),
        ([{"text": "x"}], {"clean": {"filters": [{"name": "min_characters", "limit": 9}]}},
         "none of its 1 rows is left after cleaning"),
        ([], {}, "none of its 0 rows is left"),
        ([["x"]], {}, "line 1 is not a JSON object but list"),
        ([{"text": "x"}], {"form": "conversation"}, "is not a conversation row"),
        ([{"id": "1", "domain": "d", "messages": "hello"}], {"form": "conversation"},
         "line 1 is not a conversation row .*messages is not a list of {role, content}"),
        ([{"id": "1", "domain": "d", "messages": [], "check": {"kind": "math", "option": {}}}],
         {"form": "conversation"}, "a check needs kind and reference and may have options"),
        ([{"text": "hello"}], {"form": "messages"},
         "line 1: column 'text' is not a list of {role, content}; set form: text"),
        ([{"text": "x"}], {"clean": {"decontaminate_against": "nowhere.jsonl"}},
         "no file nowhere.jsonl"),
    ],
)  # fmt: skip
def test_bad_rows_are_one_line_naming_source_and_place(
    tmp_path: Path, rows: list[Any], more: dict[str, Any], message: str
) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=message):
        _open({"type": "jsonl", "path": path, "form": "text", "column": "text", **more})


def test_a_value_that_nothing_reads_stops_nothing(tmp_path: Path) -> None:
    """Python's times end with the year 9999; the file's do not."""
    late = pa.array([2**60], pa.timestamp("us"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a page"], "seen": late}), path)
    given = {"type": "parquet", "path": str(path), "form": "text", "column": "text"}
    source: Any = TypeAdapter(SourceConfig).validate_python(given)
    assert open_source(source, name="own", seed=0).take(1) == ["a page"]
    with pytest.raises(UserError, match="has no column 'body'; its columns are: text, late"):
        other = {"text": ["a page"], "late": ["x"]}
        pq.write_table(pa.table(other), path)
        open_source(source.model_copy(update={"column": "body"}), name="own", seed=0)
    pq.write_table(pa.table({"text": late}), path)
    with pytest.raises(UserError, match="row group 0: a value cannot be read"):
        open_source(source, name="own", seed=0)


def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    given = {"type": "jsonl", "path": str(path), "form": "text", "column": "text"}
    source: Any = TypeAdapter(SourceConfig).validate_python(given)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 cannot be read: .* nested too deeply"):
        open_source(source, name="own", seed=0)


def test_missing_and_broken_files_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source 'mine': no file matches .*absent"):
        _text_source(str(tmp_path / "absent-*.jsonl"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"broken\.parquet is not a Parquet file"):
        _text_source(str(broken))


def test_asking_for_more_than_there_is_says_so(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "two.jsonl", [{"text": "a"}, {"text": "b"}])
    with pytest.raises(UserError, match="has 2 documents, 3 were asked for"):
        _text_source(path).take(3)


def test_a_hub_set_too_small_or_emptied_by_cleaning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_hub(monkeypatch, _jsonl(tmp_path / "hub.jsonl", [{"text": "a"}, {"text": "b"}]))
    config = {"type": "hub", "id": "some/data", "form": "text", "column": "text"}
    with pytest.raises(UserError, match="has 2 documents, 3 were asked for"):
        _open(config).take(3)
    clean = {"filters": [{"name": "min_characters", "limit": 5}]}
    with pytest.raises(UserError, match="no row of some/data is left after cleaning"):
        _open({**config, "clean": clean}).draw()


def _fake_hub(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A hub dataset that is a local file, streamed by the real `datasets`."""
    from datasets import load_dataset

    def opened(config: Any, name: str) -> Any:
        return load_dataset("json", data_files=path, split="train", streaming=True)

    monkeypatch.setattr(sources, "open_hub", opened)


def test_a_hub_stream_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"row {n}"} for n in range(7)]
    _fake_hub(monkeypatch, _jsonl(tmp_path / "hub.jsonl", rows))
    config = {"type": "hub", "id": "some/data", "form": "text", "column": "text"}
    whole = _open(config)
    expected = [whole.draw() for _ in range(16)]
    assert expected == [f"row {n % 7}" for n in range(16)]
    for cut in (3, 7, 10):
        first = _open(config)
        for _ in range(cut):
            first.draw()
        second = _open(config)
        second.load_state_dict(first.state_dict())
        assert [second.draw() for _ in range(16 - cut)] == expected[cut:]
        assert second.state_dict()["read"] == 16


def test_rows_of_the_hub_are_taken_where_they_meet_a_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"row {n}", "language": ("english", "polish")[n % 2]} for n in range(6)]
    _fake_hub(monkeypatch, _jsonl(tmp_path / "hub.jsonl", rows))
    config = {"type": "hub", "id": "some/data", "form": "text", "column": "text"}
    opened = _open({**config, "where": {"language": "english"}})
    assert [opened.draw() for _ in range(4)] == ["row 0", "row 2", "row 4", "row 0"]
    assert opened.accounting() == {"read": 7, "removed": {"where": 3}}
    again = _open({**config, "where": {"language": "english"}})
    again.load_state_dict(opened.state_dict())
    assert again.draw() == "row 2"
    # A data stage leaves out the same rows.
    monkeypatch.setattr(inputs, "open_hub", sources.open_hub)
    curated = inputs.HubInput(
        HubSource.read({**config, "where": {"language": "polish"}}, where="x")
    )
    (unit,) = curated.units(10)
    found = [row.get("unreadable") or row["text"] for row in curated.rows(unit)]
    assert found == ["where", "row 1", "where", "row 3", "where", "row 5"]
    with pytest.raises(UserError, match="where names column 'tongue', which some/data has not"):
        _open({**config, "where": {"tongue": "english"}}).draw()
    with pytest.raises(UserError, match="compares with 'many', which is not a number"):
        HubSource.read({**config, "where": {"n": ">many"}}, where="x")


def test_an_unreachable_hub_id_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'no/such' on the Hub")

    monkeypatch.setattr(sources, "must_answer", lambda what, instead: None)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"hub dataset 'no/such' cannot be opened .*type: parquet"):
        _open({"type": "hub", "id": "no/such"})


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys, data_mix.config; "
        "bad = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'vllm', 'trl', 'ray'}; "
        "sys.exit(str(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
