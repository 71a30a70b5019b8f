"""What data sets write in their messages is used, refused or counted."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from data_mix.config import SourceConfig
from data_mix.messages import normal_message, unusable_reply, without_padding
from data_mix.sources import open_source
from sft.examples import SampleAccounting, to_examples, with_replies, without_reasoning
from workbench.conversation import Conversation
from workbench.errors import UserError

USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize("key", ["reasoning", "thinking", "reasoning_content"])
def test_a_trace_is_read_under_each_of_its_names(key: str) -> None:
    read = normal_message({"role": "assistant", "content": "4", key: "2+2"})
    assert read == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}


def test_older_and_other_formats_become_the_one() -> None:
    call = {"name": "f", "arguments": "{}"}
    wrapped = [{"type": "function", "function": call}]
    assert normal_message({"role": "assistant", "content": None, "function_call": call}) == {
        "role": "assistant", "content": "", "tool_calls": wrapped,
    }  # fmt: skip
    assert normal_message({"role": "function", "name": "f", "content": "1"})["role"] == "tool"
    assert normal_message({"from": "human", "value": "q"}) == USER
    shared = normal_message({"from": "function_call", "value": json.dumps(call)})
    assert shared["tool_calls"] == wrapped
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert normal_message({"role": "user", "content": parts})["content"] == "ab"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assistant", "content": "4", "rationale": "x"}, "'rationale' is not read"),
        ({"role": "assistant", "content": "4", "weight": 0.5}, "weight 0.5; allowed"),
        ({"role": "assistant", "content": "4", "reasoning": "a", "thinking": "b"}, "two traces"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "parts that are not text"),
        ({"from": "robot", "value": "x"}, "message from 'robot'"),
    ],
)
def test_what_is_not_read_is_refused(message: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        normal_message(message)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"content": "4", "weight": 0}, "weight 0"),
        ({"content": "<think>\nso we start"}, "trace never closed"),
        ({"content": "", "reasoning_content": "r"}, "no reply text"),
        ({"content": " \n"}, "no reply text"),
        ({"content": "", "tool_calls": [{"name": "f"}]}, None),
        ({"content": "4"}, None),
    ],
)
def test_replies_of_which_nothing_can_be_learned(reply: dict[str, Any], reason: str | None) -> None:
    assert unusable_reply(reply) == reason


def test_what_is_left_out_is_counted_by_reason() -> None:
    replies = [{"content": "4"}, {"content": "5", "weight": 0}, {"content": ""}, {"content": ""}]
    rows = [
        Conversation(str(n), "d", [USER, {"role": "assistant", **reply}])
        for n, reply in enumerate(replies)
    ]
    accounting = SampleAccounting()
    assert [c.id for c in with_replies(rows, part="p", accounting=accounting)] == ["0"]
    assert accounting.as_dict()["left_out"] == {"p": {"weight 0": 1, "no reply text": 2}}
    with pytest.raises(UserError, match="no reply text: 1"):
        list(with_replies(rows[3:], part="p", accounting=accounting))


def test_a_stripped_copy_is_off_whatever_the_prompt_says(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    reply = {"role": "assistant", "content": "a", "reasoning_content": "r"}
    asked = Conversation("1", "d", [{"role": "user", "content": "q /think"}, reply])
    (example,) = to_examples([without_reasoning(asked)], tokenizer)
    text = tokenizer.decode(example.input_ids)
    assert text.endswith("Assistant\n<think></think>a\n<SPECIAL_12>\n")


@pytest.mark.parametrize(("given", "read"), [(None, True), (True, True), (False, False)])
def test_thinking_is_read_strictly(given: Any, read: bool) -> None:
    row = {"id": "1", "domain": "d", "messages": [USER], "thinking": given}
    assert Conversation.from_row(row).thinking is read
    for wrong in ("false", 0, "null"):
        with pytest.raises(UserError, match="thinking is"):
            Conversation.from_row({**row, "thinking": wrong})


def test_nulls_that_parquet_pads_with_are_no_arguments(tmp_path: Path) -> None:
    calls = [
        {"name": "go", "arguments": {"city": "Lyon", "opts": {"fast": True}}},
        {"name": "ride", "arguments": {"start": "a", "stops": [1, 2]}},
    ]
    rows = [
        {
            "id": call["name"], "domain": "tools", "thinking": None,
            "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call]}],
            "tools": [{"name": call["name"], "parameters": {"properties": call["arguments"]}}],
            "check": {"kind": "tools", "reference": [call]},
        }
        for call in calls
    ]  # fmt: skip
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    values = {"type": "parquet", "path": str(path), "form": "conversation"}
    config: Any = TypeAdapter(SourceConfig).validate_python(values)
    read = {c.id: c for c in open_source(config, name="s", seed=0).take(2)}  # type: ignore[union-attr]
    for call in calls:
        conversation: Any = read[call["name"]]  # type: ignore[index]
        assert conversation.reply["tool_calls"] == [call]
        assert conversation.check.reference == [call]
        assert conversation.tools[0]["parameters"]["properties"] == call["arguments"]
    assert without_padding({"a": [None, {"b": None}]}) == {"a": [None, {}]}
