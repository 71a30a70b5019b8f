"""What the budget rule must know of a tokenizer: which ids end a line, and how `</think>` is spelled."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class ThinkVocabulary:
    """A tokenizer's view of a trace.

    texts: the text of each id on its own (a part of a multi-byte character shows as U+FFFD).
    close_ids: `</think>` as the chat format writes it. newline_ids: ids whose text holds a newline.
    special_ids: ids of special tokens, which never stand inside a trace.
    rest_ids: for each number of characters of `</think>` that are written, the ids of the rest.
    """

    texts: tuple[str, ...] = field(repr=False)
    close_ids: tuple[int, ...]
    newline_ids: frozenset[int] = field(repr=False)
    special_ids: frozenset[int] = field(repr=False)
    rest_ids: tuple[tuple[int, ...], ...] = field(repr=False)

    def text(self, token: int) -> str:
        """The text of one id; empty for padding ids beyond the tokenizer's."""
        return self.texts[token] if 0 <= token < len(self.texts) else ""

    def trace_start(self, prompt_ids: Sequence[int]) -> tuple[int, str] | None:
        """Where the trace begins in a prompt, or None where its last turn opens none.

        Returns the place of its first id and the text, usually none, that the id before it already
        gave to the trace (a token may hold the end of `<think>` and more). The newline after the tag
        belongs to the tag. A prompt that ends with the tag gives (len(prompt_ids), "").
        """
        first = len(prompt_ids)
        while first > 0 and prompt_ids[first - 1] not in self.special_ids:
            first -= 1
        seen = ""
        for place in range(first, len(prompt_ids)):
            seen += self.text(prompt_ids[place])
            _, tag, carried = seen.partition(OPEN)
            if tag:
                start = place + 1
                if not carried and start < len(prompt_ids):
                    start += self.text(prompt_ids[start]) == "\n"
                return start, carried
        return None


_KNOWN: WeakKeyDictionary[Any, ThinkVocabulary] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Any) -> ThinkVocabulary:
    """The tokenizer's vocabulary as the rule needs it, read once."""
    if tokenizer not in _KNOWN:
        _KNOWN[tokenizer] = _read(tokenizer)
    return _KNOWN[tokenizer]


def _read(tokenizer: Any) -> ThinkVocabulary:
    from workbench.chat.tokens import encoder_of  # noqa: PLC0415 - rules need no tokenizer

    encoder = encoder_of(tokenizer)
    texts = tuple(encoder.plain.decode_batch([[i] for i in range(len(tokenizer))], False))
    added = tokenizer.added_tokens_decoder
    close = next((i for i, token in added.items() if token.content == CLOSE), None)
    rest = [tuple(run) for run in encoder.runs([CLOSE[n:] for n in range(len(CLOSE))])]
    return ThinkVocabulary(
        texts=texts,
        close_ids=rest[0] if close is None else (close,),
        newline_ids=frozenset(i for i, text in enumerate(texts) if "\n" in text),
        # Some models make the think tags themselves special.
        special_ids=frozenset(
            i for i, token in added.items() if token.special and token.content not in (OPEN, CLOSE)
        ),
        rest_ids=tuple(rest),
    )
