"""A told budget stands at the end of what the user says; a training sample is told one that it keeps."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from budget.told import ToldConfig, tell_what_is_kept, told
from budget.truncation import truncate_share
from data_mix.world import conversations
from workbench.chat import render
from workbench.conversation import Conversation
from workbench.errors import UserError

CONFIG = ToldConfig(budgets=[32, 8, 16])


def _budget(conversation: Conversation) -> int | None:
    said = conversation.prompt[-1]["content"].rpartition("\n")[2]
    return int(said.split()[4]) if said.startswith("Think for at most ") else None


def _spent(conversation: Conversation, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens between the tags, of the sample as it is trained on."""
    text = render(conversation.messages, tokenizer=tokenizer).text
    trace = text.rpartition("<think>\n")[2].partition("</think>")[0]
    return len(tokenizer.encode(trace, add_special_tokens=False))


def test_a_sample_is_told_the_smallest_budget_that_it_keeps(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = list(conversations("math", "train", 60, 3))
    truncate_share(
        rows, 0.5, tokenizer=tokenizer, min_tokens=1, max_tokens=20, rng=random.Random(0)
    )
    before = list(rows)
    count = tell_what_is_kept(rows, CONFIG, tokenizer)
    for row in rows:
        spent = _spent(row, tokenizer)
        assert _budget(row) == next((b for b in (8, 16, 32) if spent <= b), None)
    assert sum(count.values()) == 60 and {"8", "16"} <= set(count)
    assert [row.reply for row in rows] == [row.reply for row in before]


def test_nothing_is_told_where_nothing_is_thought(tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = conversations("math", "train", 1, 3)
    silent = [Conversation("a", "math", row.messages, thinking=False)]
    asked = [Conversation("b", "math", row.prompt)]
    assert tell_what_is_kept(silent, CONFIG, tokenizer) == {} and _budget(silent[0]) is None
    assert tell_what_is_kept(asked, CONFIG, tokenizer) == {} and _budget(asked[0]) is None


def test_a_prompt_without_a_user_has_no_place_for_it() -> None:
    bare = Conversation("a", "x", [{"role": "system", "content": "Be brief."}])
    with pytest.raises(UserError, match="'a' has no user message"):
        told(bare, 8, CONFIG.instruction)
