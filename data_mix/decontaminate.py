"""Keep benchmark prompts out of training data: word n-gram overlap.

Any shared run of n words counts. A prompt shorter than n is matched as a whole: inside a text where it
has `_WHOLE_RUN` words, and below that ("2 + 3 = ?", "Why?") only where it is all that a user asks.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from data_mix.documents import Document, conversations_in, text_of
from data_mix.files import lines_of
from data_mix.words import WORD, runs, total, words
from workbench.conversation import Conversation
from workbench.errors import UserError

_WHOLE_RUN = 8


class Decontaminator:
    """Holds the n-grams of the benchmark prompts. Example::

    guard = Decontaminator(["What is the capital of France?"], ngram_words=4)
    guard.is_contaminated("he asked: what is the capital of Peru")   # True
    """

    def __init__(self, prompts: Iterable[str], *, ngram_words: int = 13) -> None:
        self._size = ngram_words
        self._start = min(_WHOLE_RUN, ngram_words)
        self._runs: set[tuple[str, ...]] = set()
        # A shorter prompt's first run -> the whole of each prompt that begins so.
        self._whole: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        self._turns: set[tuple[str, ...]] = set()
        for prompt in prompts:
            self._add(prompt)

    def _add(self, prompt: str) -> None:
        tokens, weights = words(prompt)
        weight = total(tokens, weights)
        if weight >= self._size * WORD:
            self._runs.update(runs(tokens, weights, self._size))
        elif weight >= self._start * WORD:
            first = next(runs(tokens, weights, self._start))
            self._whole.setdefault(first, set()).add(tuple(tokens))
        elif tokens:
            self._turns.add(tuple(tokens))

    def is_contaminated(self, document: Document) -> bool:
        """True where the document shares a run of words with a prompt, or asks a short one."""
        tokens, weights = words(text_of(document))
        if not self._runs.isdisjoint(runs(tokens, weights, self._size)):
            return True
        if self._whole:
            for start, run in enumerate(runs(tokens, weights, self._start)):
                for prompt in self._whole.get(run, ()):
                    if tuple(tokens[start : start + len(prompt)]) == prompt:
                        return True
        return bool(self._turns) and any(
            tuple(words(asked)[0]) in self._turns for asked in _asked(document)
        )


def _asked(document: Document) -> list[str]:
    """What a user asks first, and all of what users say; of a plain text the text."""
    if isinstance(document, str):
        return [document]
    said = [text for text in map(_said, conversations_in(document)[0].messages) if text]
    return [said[0], "\n".join(said)] if said else []


def _said(message: dict[str, object]) -> str:
    """A user's text. System messages are shared by many prompts, and say nothing of a benchmark."""
    return str(message.get("content") or "") if message.get("role") == "user" else ""


def read_prompts(path: str) -> list[str]:
    """Prompts of a JSONL file: column `text`, or the user turns of conversation rows."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"decontaminate_against: no file {path}; write the benchmark prompts there")
    prompts = []
    for number, _, line in lines_of(file):
        try:
            row = json.loads(line)
            prompts.append(
                row["text"]
                if "text" in row
                else "\n".join(filter(None, map(_said, Conversation.from_row(row).prompt)))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: neither a `text` nor a conversation row ({error})"
            ) from None
    return prompts
