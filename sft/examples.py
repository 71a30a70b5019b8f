"""From conversations to training rows: render, strip, truncate, pack, and account for it."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_mix.messages import unusable_reply
from sft.packing import pack
from workbench.chat import render
from workbench.chat.template import TRACE_KEYS, split_trace, without_keywords
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Example:
    """One rendered sample: input_ids [T] and labels [T] (-100 outside the assistant's tokens)."""

    domain: str
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Row:
    """One training row: whole samples in a line. seq_idx [T] numbers them."""

    input_ids: list[int]
    labels: list[int]
    seq_idx: list[int]


@dataclass
class Accounting:
    """What went into the training set, for the manifest."""

    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    loss_tokens: int = 0
    stripped: int = 0
    truncated: dict[str, Any] = field(default_factory=dict)
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
    conversations: Sequence[Conversation], *, part: str, accounting: Accounting
) -> list[Conversation]:
    """Those that end with an assistant turn: nothing in the others carries loss.

    The others are counted. Raises: UserError, naming the part, where there are only such.
    """
    kept = [c for c in conversations if c.reply is not None]
    if left_out := len(conversations) - len(kept):
        accounting.without_reply[part] = left_out
    if not kept:
        last = conversations[0].messages[-1]["role"] if conversations[0].messages else "nothing"
        raise UserError(
            f"part {part!r}: none of its {len(conversations):,} conversations ends with an assistant "
            f"turn (the first, {conversations[0].id!r:.80}, ends with {last!r}), so there is nothing to "
            "train on; add the replies or remove the part"
        )
    return _usable(kept, part, accounting)


def _usable(kept: list[Conversation], part: str, accounting: Accounting) -> list[Conversation]:
    reasons = [unusable_reply(c.reply or {}) for c in kept]
    if counted := Counter(reason for reason in reasons if reason):
        accounting.left_out[part] = dict(counted)
    usable = [c for c, reason in zip(kept, reasons, strict=True) if reason is None]
    if not usable:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in counted.items())
        raise UserError(f"part {part!r}: no reply is left to train on ({why}); mend or remove it")
    return usable


def add_stripped(
    conversations: Sequence[Conversation], share: float, seed: int
) -> list[Conversation]:
    """Add, for a random `share` of prompts, a copy whose reasoning was stripped.

    The paper adds a subsample of about 10% of prompts; it does not replace them.
    """
    rng = random.Random(seed)
    with_trace = [c for c in conversations if c.thinking and c.reply]
    chosen = rng.sample(with_trace, round(share * len(with_trace)))
    return [*conversations, *(without_reasoning(c) for c in chosen)]


def to_examples(conversations: Iterable[Conversation], tokenizer: Any) -> list[Example]:
    """Render each conversation; the last assistant turn carries the loss."""
    out = []
    for c in conversations:
        done = render(
            c.messages, tools=c.tools, thinking=c.thinking, tokenizer=tokenizer, loss_on="last"
        )
        labels = [i if m else -100 for i, m in zip(done.input_ids, done.loss_mask, strict=True)]
        out.append(Example(c.domain, list(done.input_ids), labels))
    return out


def to_rows(
    examples: Sequence[Example],
    *,
    row_tokens: int,
    concatenate: bool,
    drop_longer: bool,
    seed: int,
    accounting: Accounting,
) -> list[Row]:
    """Rows in training order: concatenated samples, or one sample a row.

    Raises: UserError on an empty set, one without a token to train on, or on a sample longer than the
    row unless `drop_longer`.
    """
    kept = [e for e in examples if len(e.input_ids) <= row_tokens] if drop_longer else examples
    accounting.dropped_longer = len(examples) - len(kept)
    if not kept:
        raise UserError(
            f"no sample is left to train on ({len(examples)} before dropping those longer than "
            f"{row_tokens:,} tokens); raise row_tokens or check the sources"
        )
    for example in kept:
        accounting.samples[example.domain] += 1
        accounting.tokens[example.domain] += len(example.input_ids)
        accounting.loss_tokens += sum(label != -100 for label in example.labels)
    if not accounting.loss_tokens:
        raise UserError(
            f"none of the {len(kept):,} samples has a token to train on: their assistant turns are "
            "empty, or the chat template marks none; check the sources"
        )
    order = list(range(len(kept)))
    random.Random(seed).shuffle(order)
    shuffled = [kept[i] for i in order]
    packing = pack([len(e.input_ids) for e in shuffled], row_tokens)
    groups = packing.rows if concatenate else [[i] for i in range(len(shuffled))]
    accounting.fill_rate = packing.fill_rate if concatenate else 1.0
    rows = [_row([shuffled[i] for i in sorted(group)]) for group in groups]
    # The packer ends with the short leftovers; shuffle so that rows are alike along training.
    random.Random(seed + 1).shuffle(rows)
    accounting.rows = len(rows)
    return rows


def _row(examples: Sequence[Example]) -> Row:
    ids = [i for e in examples for i in e.input_ids]
    seq_idx = [n for n, e in enumerate(examples) for _ in e.input_ids]
    # The first token of a sample is never predicted from the sample before it.
    labels = [label for e in examples for label in (-100, *e.labels[1:])]
    return Row(ids, labels, seq_idx)
