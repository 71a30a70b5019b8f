"""The conversations that a fine-tuning is validated by: parts of their own, or a share that is not trained on."""

import hashlib
import json
from collections.abc import Iterable, MutableSequence, Sequence
from typing import Any

from model.held_out import Sample
from rl.held_out import check_held_out
from sft.config import SftValidation
from sft.examples import to_examples
from workbench.conversation import Conversation
from workbench.errors import UserError


def split_share(
    conversations: Iterable[Conversation],
    share: float,
    seed: int,
    *,
    kept: MutableSequence[Conversation],
) -> list[Conversation]:
    """Those held out; the others go into `kept`. By problem: what asks the same is on one side."""
    held_out = list[Conversation]()
    for one in conversations:
        digest = hashlib.sha256(f"{seed}/{problem_of(one)}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        (held_out if place < share else kept).append(one)
    return held_out


def problem_of(conversation: Conversation) -> str:
    """What it asks: its problem, or the words of its prompt."""
    if conversation.problem is not None:
        return f"{conversation.domain}: {conversation.problem}"
    return json.dumps([conversation.prompt, conversation.tools], sort_keys=True)


def validation_samples(
    trained: Sequence[Conversation],
    held_out: Sequence[Conversation],
    wanted: SftValidation,
    tokenizer: Any,
    *,
    row_tokens: int,
) -> tuple[list[Sample], list[str], dict[str, int]]:
    """Samples with loss, what each asks, and how many there are and were left out as longer than a row.

    Raises: UserError where one is trained on, or fewer than two are left.
    """
    if wanted.parts:
        check_held_out(trained, held_out, name="validation")
    examples = to_examples(held_out, tokenizer)
    fit = [
        ((example.input_ids, example.labels), problem_of(one))
        for example, one in zip(examples, held_out, strict=True)
        if len(example.input_ids) <= row_tokens and any(i != -100 for i in example.labels[1:])
    ]
    if len({problem for _, problem in fit}) < 2:
        raise UserError(
            f"validation: {len(fit)} of {len(held_out)} conversations fit a row of {row_tokens:,} tokens, "
            "of fewer than 2 problems; give more samples or a larger share"
        )
    counts = {"samples": len(fit), "left_out_longer": len(held_out) - len(fit)}
    return [sample for sample, _ in fit], [problem for _, problem in fit], counts
