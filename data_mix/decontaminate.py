"""Keep benchmark questions out of training data: runs of words that a text shares with one.

Any shared run of n words counts. A question shorter than n is matched as a whole: inside a text where it
has `_WHOLE_RUN` words, and below that ("2 + 3 = ?", "Why?") only where it is all that a user asks. One pass
over a text, whatever the questions and however many: runs are numbers, looked up in sorted arrays.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_mix.documents import Document, conversations_in, text_of
from data_mix.files import json_object, lines_of
from data_mix.hashed_runs import Hashed, hashed
from workbench.conversation import Conversation
from workbench.errors import UserError

_WHOLE_RUN = 8
# A table by the upper bits of a number, about sixteen places a number: most runs of a text end there.
_SPARE_BITS, _MOST_BITS = 4, 26


class RunSet:
    """Numbers of runs, to be looked for in texts."""

    def __init__(self, numbers: Iterable[NDArray[np.uint64]]) -> None:
        self.numbers = np.unique(np.concatenate([np.zeros(0, np.uint64), *numbers]))
        bits = min(len(self.numbers).bit_length() + _SPARE_BITS, _MOST_BITS)
        self._table, self._shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
        self._table[self.numbers >> self._shift] = True

    def found(self, runs: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The places of the runs that are in the set."""
        if not len(self.numbers):
            return np.zeros(0, np.int64)
        places = np.flatnonzero(self._table[runs >> self._shift])
        at = np.searchsorted(self.numbers, runs[places])
        at[at == len(self.numbers)] = 0
        return places[self.numbers[at] == runs[places]]


class Decontaminator:
    """Holds the runs of the benchmark questions. Example::

    guard = Decontaminator(["What is the capital of France?"], ngram_words=4)
    guard.is_contaminated("he asked: what is the capital of Peru")   # True

    common: runs that say nothing of one question (data_mix.curate.questions).
    """

    def __init__(
        self,
        prompts: Iterable[str],
        *,
        ngram_words: int = 13,
        common: NDArray[np.uint64] | None = None,
    ) -> None:
        self._size = ngram_words
        self._start = min(_WHOLE_RUN, ngram_words)
        self._turns: set[int] = set()
        # Shorter prompts: the first run, the number and the length in tokens of each.
        self._whole: list[tuple[int, int, int]] = []
        runs = [found for prompt in prompts if len(found := self._add(hashed(prompt)))]
        long = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]))
        self._runs = RunSet([long if common is None else np.setdiff1d(long, common)])
        begins, wholes, lengths = zip(*self._whole, strict=True) if self._whole else ((), (), ())
        self._begins = RunSet([np.array(begins, np.uint64)])
        self._wholes = RunSet([np.array(wholes, np.uint64)])
        self._lengths = sorted(set(lengths))

    def _add(self, prompt: Hashed) -> NDArray[np.uint64]:
        """The runs of a long prompt; a shorter one is put with its like."""
        if prompt.num_words >= self._size:
            return prompt.runs(self._size)
        if prompt.num_words >= self._start:
            first, whole = prompt.runs(self._start)[0], prompt.whole()[0]
            self._whole.append((int(first), int(whole), len(prompt.tokens)))
        elif len(prompt.tokens):
            self._turns.add(int(prompt.whole()[0]))
        return np.zeros(0, np.uint64)

    def is_contaminated(self, document: Document) -> bool:
        """True where the document shares a run of words with a prompt, or asks a short one."""
        text = hashed(text_of(document))
        if len(self._runs.found(text.runs(self._size))) or self._has_whole(text):
            return True
        if not self._turns:
            return False
        asked = [text] if isinstance(document, str) else map(hashed, _asked(document))
        return any(map(self._is_turn, asked))

    def _has_whole(self, text: Hashed) -> bool:
        """Whether a shorter prompt stands in the text; the cost does not grow with how many there are."""
        if not self._lengths:
            return False
        starts = self._begins.found(text.runs(self._start))
        return len(starts) > 0 and any(
            len(self._wholes.found(text.runs_at(starts, length))) for length in self._lengths
        )

    def _is_turn(self, asked: Hashed) -> bool:
        return len(asked.tokens) > 0 and int(asked.whole()[0]) in self._turns


def _asked(document: Document) -> list[str]:
    """What users of conversations ask first, and all of what they say."""
    out = []
    for conversation in conversations_in(document):
        said = [text for text in map(_said, conversation.messages) if text]
        out += [said[0], "\n".join(said)] if said else []
    return out


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
        where = f"{path}, line {number}"
        row = json_object(line, where=where)
        try:
            prompts.append(_prompt_of(row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: neither a `text` nor a conversation row ({error})") from None
    return prompts


def _prompt_of(row: dict[str, Any]) -> str:
    if "text" not in row:
        return "\n".join(filter(None, map(_said, Conversation.from_row(row).prompt)))
    if not isinstance(row["text"], str):
        raise TypeError(f"text is {row['text']!r:.40}")
    return row["text"]
