"""Truncated traces for SFT stage 3: the trace is cut abruptly, the original answer stays.

Facts: paper, section on SFT stage 3: traces cut to 1-2k tokens, about 5% of the data.
"""

import random
import re
from collections import Counter
from collections.abc import MutableSequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.chat.template import split_trace, thinking_mode
from workbench.chat.tokens import encoder_of
from workbench.conversation import Conversation
from workbench.errors import UserError

_TOOL_CALL = re.compile(r"<TOOLCALL>.*?(?:</TOOLCALL>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """A conversation with a cut trace, and the lengths of both traces in tokens.

    Example: Cut(conversation, trace_tokens=5210, kept_tokens=1377).
    """

    conversation: Conversation
    trace_tokens: int
    kept_tokens: int


def truncate_trace(
    conversation: Conversation,
    tokenizer: Any,
    *,
    min_tokens: int,
    max_tokens: int,
    rng: random.Random,
) -> Cut | None:
    """Cut the trace of the final reply after a random number of tokens in [min_tokens, max_tokens].

    The number is uniform, below the trace's own length. The cut falls between two tokens, or before
    the character or the tool call that it would split (after the call where the trace would else be
    shorter than min_tokens). Answer and tool calls of the reply are untouched. The reply is marked
    `reasoning_cut`, so that the closing tag is rendered right where the trace ends.

    Returns None where there is nothing to cut: no trace, one of at most min_tokens, or no place for a
    cut outside a tool call. Raises: UserError where min_tokens > max_tokens or below 0.
    """
    if not 0 <= min_tokens <= max_tokens:
        raise UserError(
            f"truncation: min_tokens {min_tokens} and max_tokens {max_tokens}; they must be in order "
            "and 0 or more"
        )
    if conversation.reply is None or not thinking_mode(
        conversation.messages, conversation.thinking
    ):
        return None
    trace, answer = split_trace(conversation.reply)
    encoder = encoder_of(tokenizer)
    (ids,) = encoder.runs([trace])
    if len(ids) <= min_tokens or encoder.decode(ids) != trace:
        return None  # (a tokenizer that rewrites text cannot say where its tokens end)
    length = rng.randint(min_tokens, min(max_tokens, len(ids) - 1))
    kept = _common_start(encoder.decode(ids[:length]), trace)
    for end in _ends_outside_calls(trace, len(kept)):
        (kept_ids,) = encoder.runs([trace[:end]])
        if end == len(kept) or min_tokens <= len(kept_ids) <= max_tokens:
            reply = {**conversation.reply, "content": answer, "reasoning_content": trace[:end]}
            # The tag follows at once, as the rule puts it: after a newline or inside a line.
            reply["reasoning_cut"] = True
            cut = replace(conversation.with_reply(reply), id=f"{conversation.id}-cut")
            return Cut(cut, len(ids), len(kept_ids))
    return None


def _common_start(kept: str, trace: str) -> str:
    # A cut inside a multi-byte character decodes to U+FFFD there (which may be the character itself).
    kept = kept.rstrip("\ufffd")
    same = zip(kept, trace, strict=False)
    return kept[: next((i for i, (a, b) in enumerate(same) if a != b), len(kept))]


def _ends_outside_calls(trace: str, end: int) -> list[int]:
    """Where to cut instead of at `end`: there, or at either side of a call around it."""
    for call in _TOOL_CALL.finditer(trace):
        if call.start() < end < call.end():
            return [place for place in call.span() if place < len(trace)]
    return [end]


@dataclass
class TruncationStatistics:
    """What `truncate_share` did, for the manifest. Lengths in tokens."""

    conversations: int
    wanted: int
    domains: Counter[str] = field(default_factory=Counter)
    not_cuttable: int = 0
    trace_tokens: list[int] = field(default_factory=list)
    kept_tokens: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able. `missing` is how many fewer were cut than asked for."""
        done = len(self.kept_tokens)
        return {
            "conversations": self.conversations,
            "wanted": self.wanted,
            "cut": done,
            "missing": self.wanted - done,
            "not_cuttable_seen": self.not_cuttable,
            "share": done / self.conversations if self.conversations else 0.0,
            "domains": dict(sorted(self.domains.items())),
            "trace_tokens_mean": sum(self.trace_tokens) / done if done else None,
            "kept_tokens_mean": sum(self.kept_tokens) / done if done else None,
            "kept_tokens_min": min(self.kept_tokens, default=None),
            "kept_tokens_max": max(self.kept_tokens, default=None),
        }


def truncate_share(
    conversations: MutableSequence[Conversation],
    share: float,
    *,
    tokenizer: Any,
    min_tokens: int,
    max_tokens: int,
    rng: random.Random,
) -> dict[str, Any]:
    """Replace `share` of all conversations by themselves with a cut trace, in place.

    They are drawn at random among those that can be cut. Returns statistics
    (`TruncationStatistics.as_dict`), which say so where too few could be.

    Raises: UserError where some are wanted and none can be cut.
    """
    if not 0 <= share <= 1:
        raise UserError(f"truncation: share {share}; it must be in [0, 1]")
    out = conversations
    done = TruncationStatistics(len(out), round(share * len(out)))
    for index in rng.sample(range(len(out)), len(out)):
        if len(done.kept_tokens) == done.wanted:
            break
        cut = truncate_trace(
            out[index], tokenizer, min_tokens=min_tokens, max_tokens=max_tokens, rng=rng
        )
        if cut is None:
            done.not_cuttable += 1
            continue
        out[index] = cut.conversation
        done.domains[cut.conversation.domain] += 1
        done.trace_tokens.append(cut.trace_tokens)
        done.kept_tokens.append(cut.kept_tokens)
    if done.wanted and not done.kept_tokens:
        raise UserError(
            f"truncation: none of {len(out)} conversations has a trace longer than min_tokens "
            f"{min_tokens}; lower it, or set the share to 0"
        )
    return done.as_dict()
