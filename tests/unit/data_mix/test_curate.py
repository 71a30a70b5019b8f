"""Rows in, rows out: the accounts of `curate`, its shards, and what reads them."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from data_mix import shards
from data_mix.config import HubSource, ShardsSource
from data_mix.curate.config import CurateConfig, FilesSource
from data_mix.curate.inputs import FilesInput, HubInput
from data_mix.curate.step import Decision
from data_mix.curate.steps.length import Length
from data_mix.scatter import Unit
from data_mix.shards import Item, shard_path
from data_mix.sources import open_source
from data_mix.where import meets
from tests.data_stages import data_of, files_of, rows_of, run_stages
from workbench.errors import UserError

LENGTHS = [3, 30, 5, 40, 41, 2, 60, 100, 22, 7]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"t{n}", "text": "x" * n, "score": n / 10} for n in LENGTHS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stage(path: Path, **more: Any) -> dict[str, Any]:
    return {
        "kind": "curate",
        "input": {"type": "jsonl", "form": "text", "column": "text", "path": str(path)},
        "steps": [{"type": "length", "least": 10, "most": 50}],
        "rows_per_shard": 4,
        "keep_removed": 1.0,
        **more,
    }


def test_every_row_is_accounted_for(texts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_stages(run, {"pages": stage(texts)})[0] == 0
    # By hand: 3, 5, 2, 7 are shorter than 10; 60 and 100 longer than 50.
    assert [len(row["text"]) for row in rows_of(run, "pages")] == [30, 40, 41, 22]
    data = data_of(run, "pages")
    assert (data["rows_in"], data["kept"], data["rows_out"], data["shards"]) == (10, 4, 4, 3)
    assert data["removed"] == {"length: too short": 4, "length: too long": 2}
    assert data["funnel"][1:] == [
        {"step": "length", "rows": 4, "removed": {"too short": 4, "too long": 2}, "failed": {},
         "characters": 133}
    ]  # fmt: skip
    assert rows_of(run, "pages")[0]["meta"] == {"score": 3.0}
    removed = (run / "pages/removed/00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in removed] == ["t2", "t60", "t100"]
    assert run_stages(run, {"pages": stage(texts)})[1].startswith("- pages: skipped")


def test_datasets_opens_the_folder(texts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_stages(run, {"pages": stage(texts)})
    opened = load_dataset(str(run / "pages"), cache_dir=str(tmp_path / "cache"), split="train")
    assert opened["id"] == ["t30", "t40", "t41", "t22"]
    card = (run / "pages/README.md").read_text()
    assert "size_categories:\n- n<1K" in card
    assert f'"path": "{texts}"' in card.split("## Sources")[1].split("##")[0]


def test_a_card_names_the_stage_it_read_and_no_folder_of_this_machine(
    texts: Path, tmp_path: Path
) -> None:
    more = stage(texts, needs=["pages"], steps=[{"type": "length"}])
    more["input"] = {"type": "shards", "stage": "pages"}
    run_stages(tmp_path / "run", {"pages": stage(texts), "more": more})
    card = (tmp_path / "run/more/README.md").read_text()
    assert '- input: `{"type": "shards", "stage": "pages"' in card
    assert str(tmp_path) not in card


def test_a_stage_reads_another_ones_rows_where_they_meet_a_condition(
    texts: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = stage(texts, needs=["pages"], steps=[{"type": "length"}])
    more["input"] = {"type": "shards", "stage": "pages", "where": {"id": ["t40", "t22"]}}
    run_stages(run, {"pages": stage(texts), "more": more})
    assert [row["id"] for row in rows_of(run, "more")] == ["t40", "t22"]
    assert len(list((run / "more/shards").glob("*.parquet"))) == 3
    data = data_of(run, "more")
    assert (data["rows_in"], data["removed"]) == (4, {"input: where": 2})
    more["input"]["where"] = {"ID": "t40"}
    with pytest.raises(UserError, match="where names column 'ID', which stage 'pages' has not"):
        run_stages(run, {"pages": stage(texts), "more": more}, fresh={"more"})


def test_a_hub_input_counts_the_rows_that_a_condition_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"id": f"h{n}", "text": "x", "n": n} for n in range(3)]
    part = SimpleNamespace(num_shards=1, shard=lambda num_shards, index: rows)
    monkeypatch.setattr("data_mix.curate.inputs.open_hub", lambda config, name: part)
    config = HubSource(type="hub", id="a/b", form="text", column="text", where={"n": ">=2"})
    found = [(r["id"], r.get("unreadable")) for r in HubInput(config).rows(Unit(0, "a/b, file 0"))]
    assert found == [("h0", "where"), ("h1", "where"), ("h2", None)]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"type": "jsonl", "path": "a", "clean": {"dedup": "exact"}}, "input: clean is for sources of a blend"),
        ({"type": "hub", "id": "a/b", "clean": {"ngram_words": 5}}, "write steps .*stage of kind dedup"),
        ({"type": "shards", "stage": "a", "form": "conversation"}, "input: form is not read"),
        ({"type": "shards", "stage": "a", "column": "body"}, "input: column is not read"),
    ],
)  # fmt: skip
def test_what_an_input_would_not_read_is_refused(source: dict[str, Any], problem: str) -> None:
    raw = {"kind": "curate", "input": source, "steps": [{"type": "length"}]}
    with pytest.raises(UserError, match=problem):
        CurateConfig.read(raw, where="x")


def test_a_blend_reads_shards_lazily_and_says_what_a_condition_left_out(
    texts: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_stages(run, {"pages": stage(texts)})
    where = {"id": "!=t40"}
    source = ShardsSource(type="shards", stage=str(run / "pages"), where=where)
    opened = open_source(source, name="own", seed=1)
    assert sorted(len(str(document)) for document in opened.take(3)) == [22, 30, 41]
    assert opened.accounting() == {"rows": 4, "kept": 3, "removed": {"where": 1}}
    with pytest.raises(UserError, match="where names column 'words'"):
        open_source(source.model_copy(update={"where": {"words": 1}}), name="own", seed=1)


def test_rows_of_any_values_are_written(tmp_path: Path) -> None:
    when = datetime(2024, 5, 1, 12)
    table: dict[str, Any] = {"body": ["words of a page"]}
    table |= {"at": [when], "raw": [b"\x00a"], "messages": ["other"], "score": [float("nan")]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    source = {"type": "parquet", "path": str(tmp_path / "a.parquet"), "columns": {"text": "body"}}
    raw = stage(tmp_path / "a.parquet", input=source, steps=[{"type": "length"}])
    run_stages(tmp_path / "run", {"pages": raw})
    (row,) = rows_of(tmp_path / "run", "pages")
    assert row["text"] == "words of a page"
    # The text stands once; what JSON has no word for stands as its text.
    said = {"at": "2024-05-01 12:00:00", "raw": "b'\\x00a'", "messages": "other"}
    assert row["meta"] == {**said, "score": None}


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n", encoding="utf-8-sig")
    (row,) = FilesInput(FilesSource(type="files", path=str(tmp_path / "*.py"))).rows(
        Unit(0, "", 0, 1)
    )
    assert row["text"] == "import os\n"


def test_messages_of_any_values_are_written(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f\ud800", "arguments": {}}}
    rows = [
        {
            "id": f"t{n}",
            "domain": "a",
            "messages": [
                {"role": "user", "content": "lone \ud800"},
                {"role": "assistant", "content": said, "reasoning_content": "\udfff", "tool_calls": [call]},
                {"role": "tool", "content": {"degrees": 21, "sky": "\ud800"}},
            ],
        }
        for n, said in enumerate(["", "too long " * 20])
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "form": "conversation", "path": str(path)}
    raw = stage(path, input=source, steps=[{"type": "length", "most": 200}])
    run_stages(tmp_path / "run", {"pages": raw})
    (row,) = rows_of(tmp_path / "run", "pages")
    user, reply, tool = row["messages"]
    assert (user["content"], reply["reasoning_content"]) == ("lone ?", "?")
    assert reply["tool_calls"][0]["function"]["name"] == "f?"
    assert tool["content"] == '{"degrees": 21, "sky": "?"}'
    (removed,) = (tmp_path / "run/pages/removed/00000.jsonl").read_text().splitlines()
    assert "lone ?" in removed


def test_a_stage_that_is_read_must_be_needed(texts: Path, tmp_path: Path) -> None:
    more = stage(texts, input={"type": "shards", "stage": "pages"})
    with pytest.raises(UserError, match=r"reads stage 'pages'.*needs: \[pages\]"):
        run_stages(tmp_path, {"pages": stage(texts), "more": more})


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of rows on which the step cannot decide, for as long as they stand here."""
    ids: set[str] = set()
    decide = Length.one

    def one(self: Length, item: Item) -> Decision:
        self.count(item, "seen")
        if item.row["id"] in ids:
            raise RuntimeError("the server is dead")
        return decide(self, item)

    monkeypatch.setattr(Length, "one", one)
    return ids


def test_failed_rows_are_neither_kept_nor_removed_and_the_same_command_tries_them_again(
    texts: Path, tmp_path: Path, dead: set[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_stages(whole, {"pages": stage(texts)})
    dead |= {"t5", "t40", "t22", "t60"}
    with pytest.raises(UserError, match=r"4 of 10 rows are without a decision.*server is dead"):
        run_stages(run, {"pages": stage(texts)})
    assert [row["id"] for row in rows_of(run, "pages")] == ["t30", "t41"]
    left = json.loads((run / "pages/failed/00000.jsonl").read_text().splitlines()[0])
    assert (left["row"], left["id"], left["step"]) == (2, "t5", "length")
    dead.clear()
    dead.add("t60")
    with pytest.raises(UserError, match="1 of 10 rows"):
        run_stages(run, {"pages": stage(texts)})
    dead.clear()
    code, shown = run_stages(run, {"pages": stage(texts)})
    assert code == 0 and "continues where it stopped" in shown
    assert files_of(run, "pages") == files_of(whole, "pages")
    ours, undisturbed = data_of(run, "pages"), data_of(whole, "pages")
    assert not list((run / "pages/failed").iterdir())
    assert {**ours, "seconds": 0} == {**undisturbed, "seconds": 0}
    assert ours["counts"] == {"length/seen": 10}


def test_a_few_failures_are_allowed_and_counted(
    texts: Path, tmp_path: Path, dead: set[str]
) -> None:
    dead.add("t40")
    assert run_stages(tmp_path, {"pages": stage(texts, max_failed=0.1)})[0] == 0
    data = data_of(tmp_path, "pages")
    assert data["failed"] == {"length: RuntimeError: the server is dead": 1}
    assert data["rows_in"] == 10 == data["kept"] + sum(data["removed"].values()) + 1


def test_a_kill_between_a_shard_and_its_facts_costs_that_shard_alone(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_stages(whole, {"pages": stage(texts)})
    monkeypatch.setattr(shards, "write_durably", _killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages(run, {"pages": stage(texts)})
    monkeypatch.undo()
    assert shard_path(run / "pages", 0).is_file()
    assert shards.shard_facts(run / "pages", 0) is None
    run_stages(run, {"pages": stage(texts)})
    assert files_of(run, "pages") == files_of(whole, "pages")


def _killed(path: Path, text: str) -> None:
    if path.suffix == ".json":
        raise KeyboardInterrupt


def test_a_kill_in_the_middle_of_a_second_try_neither_loses_nor_doubles_a_row(
    texts: Path, tmp_path: Path, dead: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_stages(whole, {"pages": stage(texts)})
    dead |= {"t40", "t22"}
    with pytest.raises(UserError):
        run_stages(run, {"pages": stage(texts)})
    dead.clear()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_durably", _killed)
        with pytest.raises(KeyboardInterrupt):
            run_stages(run, {"pages": stage(texts)})
    # The rows are in place, the account is not: rows that are tried a third time take their places.
    assert [row["id"] for row in rows_of(run, "pages")][:2] == ["t30", "t40"]
    dead.add("t40")
    with pytest.raises(UserError, match="1 of 10"):
        run_stages(run, {"pages": stage(texts)})
    assert [row["id"] for row in rows_of(run, "pages")] == ["t30", "t41", "t22"]
    dead.clear()
    run_stages(run, {"pages": stage(texts)})
    assert files_of(run, "pages") == files_of(whole, "pages")


@pytest.mark.parametrize(
    ("value", "condition", "met"),
    [
        (4, ">=4", True), (3.9, ">=4", False), (None, ">=4", False), ("en", "en", True),
        ("en", "!=en", False), (None, "!=en", True), (2, [1, 2], True), (4, "!=4.0", False),
        # Numbers that stand as text are compared as numbers; text that is none is on neither side.
        ("10", ">=4", True), ("9", ">=10", False), ("abc", ">=4", False), ("abc", "<4", False),
        ([4], ">=1", False), ("10", "=10", True), ("10", "!=9", True),
        (True, "!=false", True), (True, "=true", True), (False, "=True", False), (True, "=spam", False),
        (3, "!=spam", True), (3, "=spam", False), (3.0, "=3", True), (True, ">=1", True),
        (Decimal("0.1"), "=0.1", True), (Decimal("10"), ">4", True),
    ],
)  # fmt: skip
def test_conditions(value: Any, condition: Any, met: bool) -> None:
    assert meets(value, condition) is met


def test_a_condition_that_cannot_be_meant_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compares with 'many', which is not a number"):
        ShardsSource.read({"type": "shards", "stage": "a", "where": {"n": ">many"}}, where="x")
