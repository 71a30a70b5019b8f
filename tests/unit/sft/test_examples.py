"""Reasoning-off samples: stripped of their trace, or with it written out in the answer."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sft.config import SftConfig
from sft.examples import SampleAccounting, add_stripped, to_examples, to_rows, worked_in_answer
from sft.samples import Example, write_samples
from sft.stage import build_rows, collect
from workbench.chat import prompt_ids
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.results import check_outputs

PROMPT = {"role": "user", "content": "1+2+3?"}


def sample(**reply: object) -> Conversation:
    return Conversation("m-1", "math", [PROMPT, {"role": "assistant", **reply}])


def test_the_trace_moves_into_the_answer_of_a_reasoning_off_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = sample(reasoning_content="1+2=3\n3+3=6", content="6")
    worked = worked_in_answer(whole)
    assert worked.reply == {"role": "assistant", "content": "1+2=3\n3+3=6\n6"}
    assert (worked.id, worked.thinking, worked.prompt) == ("m-1-worked", False, whole.prompt)
    # What is learnt from: the closed trace is part of the prompt, the steps and the end are not.
    (example,) = to_examples([worked], tokenizer)
    prompt = prompt_ids([PROMPT], thinking=False, tokenizer=tokenizer)
    assert example.input_ids[: len(prompt)] == prompt
    learnt = [label for label in example.labels if label != -100]
    assert tokenizer.decode(learnt) == "1+2=3\n3+3=6\n6\n<SPECIAL_12>"


def test_replies_without_a_trace_or_with_calls_keep_what_they_have() -> None:
    assert worked_in_answer(sample(content="6")).reply == {"role": "assistant", "content": "6"}
    calls = [{"name": "f", "arguments": {}}]
    reply = worked_in_answer(sample(reasoning_content="use f", tool_calls=calls)).reply
    assert reply == {"role": "assistant", "content": "use f", "tool_calls": calls}


def test_a_part_says_where_its_reasoning_stands() -> None:
    source = {"type": "world", "domain": "math"}
    parts = {
        "plain": {"source": source, "samples": 3},
        "off": {"source": source, "samples": 3, "reasoning": "answer"},
    }
    config = SftConfig.model_validate({"kind": "sft", "needs": ["sft2"], "parts": parts})
    conversations = list(
        collect(config.parts, 1, SampleAccounting())
    )  # the same three problems in both parts
    assert [c.thinking for c in conversations] == [True] * 3 + [False] * 3
    for plain, worked in zip(conversations[:3], conversations[3:], strict=True):
        assert plain.reply is not None
        assert worked.reply is not None
        trace = plain.reply["reasoning_content"]
        assert worked.reply["content"] == f"{trace}\n{plain.reply['content']}"
    # Nothing is left to strip from them.
    assert add_stripped(conversations, 1.0, seed=1) == 3


def test_conversations_without_a_reply_are_left_out_and_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [[PROMPT, {"role": "assistant", "content": "6"}], [PROMPT], [PROMPT]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    part = {"source": {"type": "jsonl", "path": str(path)}, "samples": 3}
    config = SftConfig.model_validate({"kind": "sft", "parts": {"mine": part}, "row_tokens": 64})
    made, _, accounting = build_rows(config, tokenizer, 1, tmp_path / "rows")
    assert len(made) == 1
    assert accounting.as_dict()["without_reply"] == {"mine": 2}
    assert accounting.loss_tokens > 0
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows[1:]))
    config = SftConfig.model_validate(
        {"kind": "sft", "parts": {"mine": {**part, "samples": 2}}, "row_tokens": 64}
    )
    with pytest.raises(UserError, match=r"part 'mine': none of its 2 .* \(the first, .*'user'\)"):
        build_rows(config, tokenizer, 1, tmp_path / "rows")


def test_rows_without_a_token_to_train_on_are_refused(tmp_path: Path) -> None:
    silent = [Example("d", [1, 2, 3], [-100] * 3)] * 2
    with pytest.raises(UserError, match="none of the 2 samples has a token to train on"):
        to_rows(
            write_samples(tmp_path, [(one.domain, one.signed) for one in silent]),
            row_tokens=8,
            concatenate=False,
            drop_longer=False,
            seed=1,
            accounting=SampleAccounting(),
        )


def test_the_manifest_says_what_was_cut(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    parts = {"world": {"source": {"type": "world", "domain": "math"}, "samples": 40}}
    body = {"kind": "sft", "needs": ["sft2"], "parts": parts, "row_tokens": 512}
    cut = {"share": 0.25, "min_tokens": 2, "max_tokens": 6}
    with_cuts = SftConfig.model_validate({**body, "truncation": cut})
    without = SftConfig.model_validate(body)
    rows, _, accounting = build_rows(with_cuts, tokenizer, 3, tmp_path / "cut")
    plain, _, nothing = build_rows(without, tokenizer, 3, tmp_path / "whole")
    told = accounting.as_dict()["truncated_traces"]
    assert (told["conversations"], told["wanted"], told["cut"]) == (40, 10, 10)
    assert (told["missing"], told["domains"], told["share"]) == (0, {"math": 10}, 0.25)
    assert 2 <= told["kept_tokens_min"] <= told["kept_tokens_mean"] <= told["kept_tokens_max"] <= 6
    # The two arms of the ablation differ in these samples alone, and stand in the same order.
    pairs = list(zip(rows, plain, strict=True))
    assert sum(a["input_ids"] != b["input_ids"] for a, b in pairs) == 10
    removed = sum(len(b["input_ids"]) - len(a["input_ids"]) for a, b in pairs)
    # The newline before the tag goes too.
    assert removed == round(10 * (told["trace_tokens_mean"] - told["kept_tokens_mean"] + 1))
    assert nothing.as_dict()["truncated_traces"] == {}


def test_samples_that_are_told_a_budget_are_counted(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """And longer by the words of it."""
    body = {
        "kind": "sft", "row_tokens": 256,
        "parts": {"math": {"source": {"type": "world", "domain": "math"}, "samples": 12}},
    }  # fmt: skip
    rows, _, plain = build_rows(SftConfig.model_validate(body), tokenizer, 3, tmp_path / "plain")
    telling = SftConfig.model_validate({**body, "told": {"budgets": [16, 400]}})
    longer, _, accounting = build_rows(telling, tokenizer, 3, tmp_path / "told")
    assert sum(accounting.as_dict()["told_budgets"].values()) == 12 == len(rows) == len(longer)
    assert "told_budgets" not in plain.as_dict()
    for account in (plain, accounting):  # the manifest takes both
        check_outputs("sft", {"data": account.as_dict()})
    assert accounting.tokens["math"] > plain.tokens["math"] + 12 * 5
    assert accounting.loss_tokens == plain.loss_tokens
