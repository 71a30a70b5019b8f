"""Lengths of a finished reply, and the engine's hooks for forced tokens and adherence."""

from transformers import PreTrainedTokenizerFast

from budget.control import BudgetRule
from budget.engine import adherence, forced
from budget.trace import TraceLengths, measure
from budget.vocabulary import vocabulary_of
from engine.protocol import Sampling
from workbench.chat import prompt_ids

USER = [{"role": "user", "content": "q"}]


def test_lengths_add_up(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = prompt_ids(USER, tokenizer=tokenizer)
    close = list(vocabulary_of(tokenizer).close_ids)
    trace = tokenizer.encode("123", add_special_tokens=False)
    answer = [*tokenizer.encode("45", add_special_tokens=False), 12]
    size = len(close)
    own = measure(prompt, [*trace, *close, *answer], tokenizer)
    assert own == TraceLengths(trace=3 + size, answer=3, closed=True, forced=0)
    # A part of the trace in the prompt counts for the budget.
    assert measure([*prompt, *trace], [*trace, *close, *answer], tokenizer).trace == 6 + size
    unfinished = measure(prompt, trace, tokenizer)
    assert unfinished == TraceLengths(trace=3, answer=0, closed=False, forced=0)
    off = prompt_ids(USER, thinking=False, tokenizer=tokenizer)
    assert measure(off, answer, tokenizer) == TraceLengths(0, 3, True, 0)
    never = measure(tokenizer.encode("<SPECIAL_11>Assistant\n"), answer, tokenizer)
    assert never == TraceLengths(0, 3, False, 0)


def test_under_a_rule_the_forced_tokens_are_known(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = prompt_ids(USER, tokenizer=tokenizer)
    close = list(vocabulary_of(tokenizer).close_ids)
    trace = tokenizer.encode("123", add_special_tokens=False)
    reply = [*trace, *close, 12]
    rule = BudgetRule.for_tokenizer(tokenizer, 2, 1)
    measured = measure(prompt, reply, tokenizer, rule)
    assert measured == TraceLengths(3 + len(close), 1, True, forced=len(close))
    assert measured.adheres(rule)
    assert not measured.adheres(BudgetRule.for_tokenizer(tokenizer, 2, 0))

    asked = Sampling(max_tokens=9, thinking_budget=2, thinking_grace=1)
    mask = [False] * 3 + [True] * len(close) + [False]
    assert forced(prompt, reply, asked, tokenizer) == mask
    assert adherence(prompt, reply, asked, tokenizer) is True
    strict = Sampling(max_tokens=9, thinking_budget=2, thinking_grace=0)
    assert adherence(prompt, reply, strict, tokenizer) is False
    free = Sampling(max_tokens=9)
    assert forced(prompt, reply, free, tokenizer) == [False] * len(reply)
    assert adherence(prompt, reply, free, tokenizer) is None
