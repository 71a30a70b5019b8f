"""The rule on real text: tags in any spelling, prompts that hold a part of the trace."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from budget.control import BudgetRule, forced_mask
from budget.vocabulary import vocabulary_of
from workbench.chat import prompt_ids, render
from workbench.errors import UserError

USER = [{"role": "user", "content": "literal <think> of a user"}]


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Bytes, and a few tokens that reach over the ends of the tags."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), (">", "<"), (">", "ĊĊ"), (">", "Ċ"), (".", "<"), (".", "Ċ")]
    tokens = [*alphabet, *(a + b for a, b in pairs)]
    raw = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw)
    made.add_special_tokens({"additional_special_tokens": [f"<SPECIAL_{i}>" for i in (10, 11, 12)]})
    return made


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def generated(rule: BudgetRule, prompt: list[int], wish: list[int]) -> list[int]:
    state = rule.state(prompt)
    out = []
    for token in wish:
        out.append(token if state.forced is None else state.forced)
        state.push(out[-1])
    return out


def test_newlines_are_all_ids_whose_text_holds_one(merging: PreTrainedTokenizerFast) -> None:
    known = vocabulary_of(merging)
    assert {known.text(i) for i in known.newline_ids} == {"\n", "\n\n", ">\n", ">\n\n", ".\n"}
    assert merging.decode(known.close_ids) == "</think>"
    assert known.text(10**6) == ""  # padding of the model's vocabulary


def test_close_ids_are_those_that_the_chat_format_writes(merging: PreTrainedTokenizerFast) -> None:
    reply = {"role": "assistant", "content": "b", "reasoning_content": "a"}
    ids = render([*USER, reply], tokenizer=merging).input_ids
    close = list(vocabulary_of(merging).close_ids)
    assert [ids[i : i + len(close)] for i in range(len(ids))].count(close) == 1


def test_the_trace_begins_after_the_generation_prompt(merging: PreTrainedTokenizerFast) -> None:
    known = vocabulary_of(merging)
    prompt = prompt_ids(USER, tokenizer=merging)
    assert known.trace_start(prompt) == (len(prompt), "\n")  # `>\n` is one token
    assert known.trace_start([*prompt, *encode(merging, "so far")]) == (len(prompt), "\n")
    apart = encode(merging, "<SPECIAL_11>Assistant\n<think>") + encode(merging, "\n")
    assert known.trace_start([*apart, *encode(merging, "so far")]) == (len(apart), "")
    # `><` is one token, so a part of the closing tag comes with the opening one.
    off = prompt_ids(USER, thinking=False, tokenizer=merging)
    assert known.trace_start(off) == (len(off) - len("/think>"), "<")
    assert known.trace_start(encode(merging, "no tag")) is None


def test_a_prompt_that_has_closed_the_trace_is_left_alone(merging: PreTrainedTokenizerFast) -> None:
    prompt = prompt_ids(USER, thinking=False, tokenizer=merging)
    wish = encode(merging, "answer\n\n" * 9)
    for budget in (0, 1, 50):
        rule = BudgetRule.for_tokenizer(merging, budget, 1)
        assert generated(rule, prompt, wish) == wish


def test_the_budget_counts_the_part_of_the_trace_in_the_prompt(
    merging: PreTrainedTokenizerFast,
) -> None:
    rule = BudgetRule.for_tokenizer(merging, 6, 3)
    prompt = prompt_ids(USER, tokenizer=merging)
    wish = encode(merging, "abcdefghijklmnopqrstuvwxyz")
    whole = merging.decode(generated(rule, prompt, wish))
    assert whole.startswith("abcdefghi</think>")  # 6 + 3, no newline
    for count in range(9):
        out = generated(rule, [*prompt, *wish[:count]], wish[count:])
        assert merging.decode([*wish[:count], *out]).startswith("abcdefghi</think>")
    # Over the budget already: at the next newline, or after the grace; at once if that has passed.
    assert merging.decode(
        generated(rule, [*prompt, *encode(merging, "a\nbcdefg")], wish)
    ).startswith("a</think>")
    assert merging.decode(generated(rule, [*prompt, *wish], wish)).startswith("</think>")


def test_the_models_own_tag_is_seen_in_any_spelling(merging: PreTrainedTokenizerFast) -> None:
    prompt = prompt_ids(USER, tokenizer=merging)
    wish = encode(merging, "well.</think>\n\nthe answer\nhas\nlines")
    close = vocabulary_of(merging).close_ids
    assert not any(tuple(wish[i : i + len(close)]) == close for i in range(len(wish)))
    rule = BudgetRule.for_tokenizer(merging, 12, 0)
    assert generated(rule, prompt, wish) == wish
    assert forced_mask(prompt, wish, rule) == [False] * len(wish)


def test_a_model_that_opens_its_trace_itself_is_counted_from_there(
    merging: PreTrainedTokenizerFast,
) -> None:
    prompt = encode(merging, "<SPECIAL_10>Assistant\n")
    wish = encode(merging, "hm <think>abcdefgh")
    rule = BudgetRule.for_tokenizer(merging, 3, 0)
    assert merging.decode(generated(rule, prompt, wish)).startswith("hm <think>abc</thi")
    # `><` holds the end of one tag and the start of the other; the rule finishes what is begun.
    closed = encode(merging, "<think></think>abcdefgh")
    assert generated(rule, prompt, closed) == closed
    assert sum(forced_mask(prompt, closed, rule)) == len("ink>")


def test_the_cards_rule_cuts_at_the_budget(merging: PreTrainedTokenizerFast) -> None:
    rule = BudgetRule.for_tokenizer(merging, 4, 500, rule="card")
    prompt = prompt_ids(USER, tokenizer=merging)
    wish = encode(merging, "abcd" + "x" * 30)
    out = generated(rule, prompt, wish)
    assert merging.decode(out).startswith("abcd.\n</think>\n\nxxx")  # [model card]
    # ".\n" and "\n\n" are one token each here.
    assert forced_mask(prompt, out, rule)[:16] == [False] * 4 + [True] * 10 + [False] * 2
    with pytest.raises(UserError, match="thinking rule 'nim'"):
        BudgetRule.for_tokenizer(merging, 4, rule="nim")  # type: ignore[arg-type]


def test_a_tag_that_is_one_added_token_is_forced_as_one() -> None:
    raw = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template="{{ messages }}")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "<think>", "</think>"]})
    known = vocabulary_of(tokenizer)
    assert known.close_ids == (tokenizer.convert_tokens_to_ids("</think>"),)
    prompt = encode(tokenizer, "<s>a<think>aa")
    assert known.trace_start(prompt) == (3, "")
    assert BudgetRule.for_tokenizer(tokenizer, 2, 0).state(prompt).forced == known.close_ids[0]
