"""From conversations to training rows: render, strip, truncate, pack, and account for it."""

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, MutableSequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_mix.messages import unusable_reply
from sft.packing import Packing, alone, pack
from sft.samples import Example, PackedRows, Samples, write_rows
from workbench.chat import render
from workbench.chat.template import TRACE_KEYS, split_trace, without_keywords
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass
class SampleAccounting:
    """What went into the training set, for the manifest."""

    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    loss_tokens: int = 0
    stripped: int = 0
    truncated: dict[str, Any] = field(default_factory=dict)
    told: dict[str, int] | None = None
    """Samples that were told each budget; null: none was told any."""
    dropped_longer: int = 0
    without_reply: dict[str, int] = field(default_factory=dict)
    """Part -> conversations left out of it, for they do not end with an assistant turn."""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Part -> reason -> conversations left out of it, for nothing can be learned from their reply."""
    validation: dict[str, int] | None = None
    """Samples that are held out, and those left out of them as longer than a row."""
    rows: int = 0
    fill_rate: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for the manifest."""
        return {
            "samples": dict(self.samples),
            "tokens": dict(self.tokens),
            "loss_tokens": self.loss_tokens,
            "stripped_reasoning": self.stripped,
            "truncated_traces": self.truncated,
            "dropped_longer": self.dropped_longer,
            "without_reply": self.without_reply,
            "left_out": self.left_out,
            "rows": self.rows,
            "fill_rate": round(self.fill_rate, 5),
            **({"validation": self.validation} if self.validation else {}),
            **({"told_budgets": self.told} if self.told is not None else {}),
        }


def without_reasoning(conversation: Conversation) -> Conversation:
    """The same prompt with an empty trace: the sample that teaches reasoning-off mode."""
    _, answer = split_trace(conversation.reply or {"role": "assistant"})
    return _reasoning_off(conversation, answer, name="no-think")


def worked_in_answer(conversation: Conversation) -> Conversation:
    """The same prompt with reasoning off and the trace written out as the start of the answer."""
    trace, answer = split_trace(conversation.reply or {"role": "assistant"})
    content = "\n".join(part for part in (trace, answer) if part)
    return _reasoning_off(conversation, content, name="worked")


def _reasoning_off(conversation: Conversation, content: str, *, name: str) -> Conversation:
    """The same with another answer and no trace. A `/think` of the prompt would turn reasoning on."""
    kept = {k: v for k, v in (conversation.reply or {}).items() if k not in TRACE_KEYS}
    messages = [
        {**m, "content": without_keywords(m["content"])}
        if m["role"] in ("system", "user") and isinstance(m.get("content"), str)
        else m
        for m in conversation.prompt
    ]
    return replace(
        conversation,
        messages=[*messages, {**kept, "content": content}],
        id=f"{conversation.id}-{name}",
        thinking=False,
    )


def unrolled(conversation: Conversation) -> list[Conversation]:
    """The conversation up to each of its replies; as it is where it has none."""
    messages = conversation.messages
    ends = [n for n, message in enumerate(messages, start=1) if message["role"] == "assistant"]
    if len(ends) < 2:
        return [replace(conversation, messages=messages[: ends[0]])] if ends else [conversation]
    return [
        replace(conversation, id=f"{conversation.id}-reply-{place}", messages=messages[:end])
        for place, end in enumerate(ends, start=1)
    ]


def with_replies(
    conversations: Iterable[Conversation], *, part: str, accounting: SampleAccounting
) -> Iterator[Conversation]:
    """Those that end with an assistant turn: nothing in the others carries loss.

    The others are counted. Raises: UserError, naming the part, where there are only such.
    """
    first: Conversation | None = None
    seen, left_out, reasons = 0, 0, Counter[str]()
    for conversation in conversations:
        first = first or conversation
        seen += 1
        if conversation.reply is None:
            left_out += 1
        elif reason := unusable_reply(conversation.reply):
            reasons[reason] += 1
        else:
            yield conversation
    if left_out:
        accounting.without_reply[part] = left_out
    if reasons:
        accounting.left_out[part] = dict(reasons)
    if first is not None and left_out == seen:
        last = first.messages[-1]["role"] if first.messages else "nothing"
        raise UserError(
            f"part {part!r}: none of its {seen:,} conversations ends with an assistant "
            f"turn (the first, {first.id!r:.80}, ends with {last!r}), so there is nothing to "
            "train on; add the replies or remove the part"
        )
    if left_out + reasons.total() == seen:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())
        raise UserError(f"part {part!r}: no reply is left to train on ({why}); mend or remove it")


def add_stripped(conversations: MutableSequence[Conversation], share: float, seed: int) -> int:
    """Add, for a random `share` of prompts, a copy whose reasoning was stripped. Returns how many.

    The paper adds a subsample of about 10% of prompts; it does not replace them.
    """
    if not share:
        return 0
    with_trace = array("q", (n for n, c in enumerate(conversations) if c.thinking and c.reply))
    chosen = random.Random(seed).sample(range(len(with_trace)), round(share * len(with_trace)))
    conversations.extend(without_reasoning(conversations[with_trace[place]]) for place in chosen)
    return len(chosen)


def to_example(conversation: Conversation, tokenizer: Any) -> Example:
    """Render a conversation; the last assistant turn carries the loss."""
    c = conversation
    done = render(
        c.messages, tools=c.tools, thinking=c.thinking, tokenizer=tokenizer, loss_on="last"
    )
    labels = [i if m else -100 for i, m in zip(done.input_ids, done.loss_mask, strict=True)]
    return Example(c.domain, list(done.input_ids), labels)


def to_examples(conversations: Iterable[Conversation], tokenizer: Any) -> list[Example]:
    """Render each conversation."""
    return [to_example(c, tokenizer) for c in conversations]


def to_rows(
    samples: Samples,
    *,
    row_tokens: int,
    concatenate: bool,
    drop_longer: bool,
    seed: int,
    accounting: SampleAccounting,
) -> PackedRows:
    """Rows in training order: concatenated samples, or one sample a row.

    Raises: UserError on an empty set, one without a token to train on, or on a sample longer than the
    row unless `drop_longer`.
    """
    lengths = samples.lengths
    kept = np.flatnonzero(lengths <= row_tokens) if drop_longer else np.arange(len(samples))
    accounting.dropped_longer = len(samples) - len(kept)
    if not len(kept):
        raise UserError(
            f"no sample is left to train on ({len(samples)} before dropping those longer than "
            f"{row_tokens:,} tokens); raise row_tokens or check the sources"
        )
    _count(samples, kept, lengths, accounting)
    if not accounting.loss_tokens:
        raise UserError(
            f"none of the {len(kept):,} samples has a token to train on: their assistant turns are "
            "empty, or the chat template marks none; check the sources"
        )
    shuffled = kept[_shuffled(len(kept), seed)]
    packing = pack(lengths[shuffled], row_tokens)  # without concatenation too: it refuses long ones
    packing = packing if concatenate else alone(len(shuffled))
    accounting.fill_rate = packing.fill_rate
    rows = _in_training_order(packing, shuffled, seed)
    accounting.rows = len(rows.starts) - 1
    return write_rows(samples, rows)


def _count(
    samples: Samples, kept: np.ndarray, lengths: np.ndarray, accounting: SampleAccounting
) -> None:
    domains = samples.domains[kept]
    accounting.loss_tokens = int(samples.losses[kept].sum())
    for number, name in enumerate(samples.domain_names):
        of_it = domains == number
        if of_it.any():
            accounting.samples[name] = int(of_it.sum())
            accounting.tokens[name] = int(lengths[kept[of_it]].sum())


def _shuffled(count: int, seed: int) -> np.ndarray:
    """A permutation, as `random` makes it."""
    order = array("q", range(count))
    random.Random(seed).shuffle(order)
    return np.frombuffer(order, np.int64)


def _in_training_order(packing: Packing, shuffled: np.ndarray, seed: int) -> Packing:
    """Sample numbers for places in `shuffled`, sorted in each row; the rows shuffled.

    The packer ends with the short leftovers; shuffled, rows are alike along training.
    """
    order = _shuffled(len(packing.starts) - 1, seed + 1)
    sizes = np.diff(packing.starts)
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    new_place = np.empty(len(order), np.int64)
    new_place[order] = np.arange(len(order))
    row_of = np.repeat(new_place, sizes)  # of each member, its row in the new order
    members = packing.members[np.lexsort((packing.members, row_of))]
    return Packing(shuffled[members], starts, packing.fill_rate)
