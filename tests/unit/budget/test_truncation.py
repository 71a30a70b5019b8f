"""Truncated traces: where the cut falls, what stays, and what the manifest says."""

import random
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from budget.control import BudgetRule
from budget.truncation import truncate_share, truncate_trace
from workbench.chat import prompt_ids, render
from workbench.chat.tokens import encoder_of
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

CALL = '<TOOLCALL>[{"name": "f", "arguments": {"x": 1}}]</TOOLCALL>'


def sample(trace: str, *, number: int = 0, domain: str = "math", **others: Any) -> Conversation:
    reply: dict[str, Any] = {"role": "assistant", "reasoning_content": trace}
    reply |= {"content": "the answer", "tool_calls": [{"name": "f", "arguments": {}}]}
    user = {"role": "user", "content": "q"}
    check = CheckSpec("math", "1")
    return Conversation(f"s-{number}", domain, [user, reply], None, check, **others)


def cut_at(
    tokenizer: Any, trace: str, low: int, high: int, seed: int = 0, **others: Any
) -> Conversation | None:
    cut = truncate_trace(
        sample(trace, **others), tokenizer, min_tokens=low, max_tokens=high, rng=random.Random(seed)
    )
    return cut.conversation if cut else None


def kept(conversation: Conversation | None) -> str:
    assert conversation and conversation.reply
    return str(conversation.reply["reasoning_content"])


def test_the_trace_is_cut_and_all_else_stays(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = sample("0123456789" * 4)  # digits are one token each here
    cut = truncate_trace(whole, tokenizer, min_tokens=7, max_tokens=7, rng=random.Random(0))
    assert cut is not None
    assert (cut.trace_tokens, cut.kept_tokens) == (40, 7)
    assert cut.conversation.id == "s-0-cut"
    reply, original = cut.conversation.reply, whole.reply
    assert reply and original
    assert reply == {**original, "reasoning_content": "0123456", "reasoning_cut": True}
    assert (cut.conversation.check, cut.conversation.prompt) == (whole.check, whole.prompt)
    assert len(original["reasoning_content"]) == 40  # the caller's own is not changed


def test_lengths_are_uniform_and_below_the_traces_own(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    lengths = []
    for _ in range(600):
        cut = truncate_trace(sample("7" * 9), tokenizer, min_tokens=4, max_tokens=2000, rng=rng)
        assert cut is not None
        lengths.append(cut.kept_tokens)
    # 4..8, each 120 times on average; 5 standard deviations are 49.
    assert all(71 < lengths.count(n) < 169 for n in (4, 5, 6, 7, 8))
    assert set(lengths) == {4, 5, 6, 7, 8}


def test_a_short_trace_or_none_is_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert cut_at(tokenizer, "1234", 4, 9) is None
    assert cut_at(tokenizer, "", 0, 9) is None
    assert cut_at(tokenizer, "12345", 4, 9, thinking=False) is None
    prompt = Conversation("p", "math", [{"role": "user", "content": "q"}])
    assert (
        truncate_trace(prompt, tokenizer, min_tokens=0, max_tokens=9, rng=random.Random()) is None
    )


def test_a_character_is_never_split(tokenizer: PreTrainedTokenizerFast) -> None:
    trace = "🙂é日\ufffd" * 5
    lengths = set()
    for length in range(1, 60):
        cut = cut_at(tokenizer, trace, length, length)
        if cut is None:
            continue
        assert trace.startswith(kept(cut))
        assert len(tokenizer.encode(kept(cut), add_special_tokens=False)) <= length
        lengths.add(len(kept(cut)))
    # Every number of whole characters, but none ends with U+FFFD, as half a character would show.
    assert lengths == set(range(20)) - {4, 8, 12, 16}


def test_a_tool_call_is_never_split(tokenizer: PreTrainedTokenizerFast) -> None:
    before, after = "1" * 10, "2" * 10
    seen = set()
    for seed in range(200):
        cut = cut_at(tokenizer, f"{before}{CALL}{after}", 3, 75, seed)
        if cut is not None:
            rest = kept(cut)
            assert rest.count("<TOOLCALL>") == rest.count("</TOOLCALL>")
            assert "<" not in rest or CALL in rest
            seen.add(rest)
    assert before in seen
    assert f"{before}{CALL}2" in seen
    # Before the call is too short, so the cut comes after it; where both fail, there is none.
    assert kept(cut_at(tokenizer, f"{before}{CALL}{after}", 12, 75, 4)).startswith(before + CALL)
    assert cut_at(tokenizer, f"{before}{CALL}{after}", 12, 20) is None
    assert cut_at(tokenizer, f"{before}<TOOLCALL>[never closed", 12, 20) is None


def test_a_cut_sample_ends_its_trace_as_the_rule_does(tokenizer: PreTrainedTokenizerFast) -> None:
    """What is trained on, up to the answer, is what serving under that budget leaves."""
    whole = sample("12+3=15\n15+4=19")
    (trace_ids,) = encoder_of(tokenizer).runs(["12+3=15\n15+4=19\n"])
    before = len(prompt_ids(whole.prompt, tokenizer=tokenizer))
    for length in range(1, 15):
        cut = truncate_trace(
            whole, tokenizer, min_tokens=length, max_tokens=length, rng=random.Random(0)
        )
        assert cut is not None
        rule = BudgetRule.for_tokenizer(tokenizer, length, grace=0)
        served = trace_ids[:length]
        while (forced := rule.next_forced(served)) is not None:
            served.append(forced)
        done = render(cut.conversation.messages, tokenizer=tokenizer)
        assert done.input_ids[before : before + len(served)] == served, length
        assert "</think>\n\nthe answer" in done.text


def test_a_trace_inside_the_content_is_cut_too(tokenizer: PreTrainedTokenizerFast) -> None:
    reply = {"role": "assistant", "content": "<think>\n123456789\n</think>\n\nso"}
    inline = Conversation("i", "math", [{"role": "user", "content": "q"}, reply])
    cut = truncate_trace(inline, tokenizer, min_tokens=3, max_tokens=3, rng=random.Random(0))
    assert cut is not None
    assert cut.conversation.reply == {
        "role": "assistant",
        "content": "so",
        "reasoning_content": "123",
        "reasoning_cut": True,
    }


def test_the_share_is_of_all_conversations_and_accounted_for(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    short = [sample("12", number=n, domain="chat") for n in range(60)]
    long = [sample("7" * 50, number=n) for n in range(60, 100)]
    mix = [*short, *long]

    def cut(share: float, seed: int) -> tuple[list[Conversation], dict[str, Any]]:
        out = [*mix]
        return out, truncate_share(
            out,
            share,
            tokenizer=tokenizer,
            min_tokens=10,
            max_tokens=20,
            rng=random.Random(seed),
        )

    out, statistics = cut(0.05, 0)
    changed = [n for n, (a, b) in enumerate(zip(mix, out, strict=True)) if a is not b]
    assert len(changed) == 5
    assert all(n >= 60 for n in changed)
    lengths = [len(kept(out[n])) for n in changed]
    assert statistics["domains"] == {"math": 5}
    assert statistics == {
        "conversations": 100,
        "wanted": 5,
        "cut": 5,
        "missing": 0,
        "not_cuttable_seen": statistics["not_cuttable_seen"],
        "share": 0.05,
        "domains": {"math": 5},
        "trace_tokens_mean": 50.0,
        "kept_tokens_mean": sum(lengths) / 5,
        "kept_tokens_min": min(lengths),
        "kept_tokens_max": max(lengths),
    }
    assert cut(0.05, 0)[0] == out
    assert cut(0.05, 1)[0] != out
    everything = cut(1.0, 0)[1]
    assert (everything["cut"], everything["missing"], everything["share"]) == (40, 60, 0.4)
    assert everything["not_cuttable_seen"] == 60
    assert cut(0.0, 0) == (mix, cut(0.0, 0)[1])


def test_mistakes_are_said(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="in order"):
        cut_at(tokenizer, "12345", 5, 4)
    for share, says in ((1.1, "share 1.1"), (0.5, "none of 2 conversations")):
        with pytest.raises(UserError, match=says):
            truncate_share(
                [sample("1"), sample("2")],
                share,
                tokenizer=tokenizer,
                min_tokens=9,
                max_tokens=9,
                rng=random.Random(0),
            )
